"""Every Python block of README and docs runs, page by page, in order."""

import doctest
import re
from pathlib import Path

import pytest

from treadle.op import CATALOGUE

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def same_catalogue():
    """Pages may declare ops; other tests count them."""
    before = dict(CATALOGUE)
    yield
    for name in set(CATALOGUE) - set(before):
        del CATALOGUE[name]


PAGES = sorted([REPO / "README.md", *(REPO / "docs").rglob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    for number, block in enumerate(FENCE.findall(page.read_text())):
        if block.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, namespace, f"{page.name}[{number}]", str(page), 0)
            runner = doctest.DocTestRunner(optionflags=flags)
            runner.run(test, clear_globs=False)
            assert not runner.failures, f"{page.name}, block {number}"
            namespace = test.globs
        else:
            exec(compile(block, f"{page.name}[{number}]", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
