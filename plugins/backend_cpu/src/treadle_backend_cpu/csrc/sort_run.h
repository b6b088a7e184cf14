/* Sorting one run of ITEMs; included once for each kind of item, with ITEM, NAME(f) the type and
 * how its functions are called BEFORE(a, b) whether item a must come before b; of equals the one
 * that is first stays first DIGIT(e, d) byte d of the item's key, least significant first;
 * DIGITS of them RADIX_FROM runs at least this long are sorted by digits */

static void NAME(insert)(ITEM *a, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        const ITEM e = a[i];
        int64_t j = i;
        for (; j > 0 && BEFORE(e, a[j - 1]); j--) a[j] = a[j - 1];
        a[j] = e;
    }
}

/* Merges a[0..na) and b[0..nb); a is the earlier run. */
static void NAME(merge)(const ITEM *a, int64_t na, const ITEM *b, int64_t nb, ITEM *out) {
    const ITEM *const a_end = a + na, *const b_end = b + nb;
    while (a < a_end && b < b_end) {
        const int right = BEFORE(*b, *a);
        *out++ = right ? *b : *a;
        b += right, a += !right;
    }
    while (a < a_end) *out++ = *a++;
    while (b < b_end) *out++ = *b++;
}

/* How many of the first k merged items come from a. */
static int64_t NAME(split)(const ITEM *a, int64_t na, const ITEM *b, int64_t nb, int64_t k) {
    int64_t low = TD_MAX(0, k - nb), high = TD_MIN(k, na);
    while (low < high) {
        const int64_t i = low + (high - low) / 2;
        if (BEFORE(b[k - i - 1], a[i])) high = i;
        else low = i + 1;
    }
    return low;
}

static ITEM *NAME(by_merging)(ITEM *a, ITEM *spare, int64_t n) {
    enum { SHORT = 16 };
    for (int64_t i = 0; i < n; i += SHORT) NAME(insert)(a + i, TD_MIN(SHORT, n - i));
    for (int64_t width = SHORT; width < n; width *= 2) {
        for (int64_t i = 0; i < n; i += 2 * width) {
            const int64_t na = TD_MIN(width, n - i), nb = TD_MIN(width, n - i - na);
            NAME(merge)(a + i, na, a + i + na, nb, spare + i);
        }
        ITEM *t = a;
        a = spare, spare = t;
    }
    return a;
}

static ITEM *NAME(by_digits)(ITEM *a, ITEM *spare, int64_t n) {
    int64_t count[DIGITS][256];
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < n; i++)
        for (int d = 0; d < DIGITS; d++) count[d][DIGIT(a[i], d)]++;
    for (int d = 0; d < DIGITS; d++) {
        int64_t *at = count[d], sum = 0;
        if (at[DIGIT(a[0], d)] == n) continue; /* all have the same digit */
        for (int k = 0; k < 256; k++) {
            const int64_t c = at[k];
            at[k] = sum, sum += c;
        }
        for (int64_t i = 0; i < n; i++) spare[at[DIGIT(a[i], d)]++] = a[i];
        ITEM *t = a;
        a = spare, spare = t;
    }
    return a;
}

/* Sorts a[0..n) with the help of spare; returns which of the two holds the result. */
static ITEM *NAME(sort)(ITEM *a, ITEM *spare, int64_t n) {
    return n < RADIX_FROM ? NAME(by_merging)(a, spare, n) : NAME(by_digits)(a, spare, n);
}
