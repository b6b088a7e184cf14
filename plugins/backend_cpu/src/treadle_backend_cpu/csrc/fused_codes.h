/* Made by tools/generate_elementwise.py from the core's declarations: change those. */
enum { FUSED_STORE = 2, FUSED_STREAM = 3, FUSED_CODES = 75 };
