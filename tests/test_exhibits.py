"""What an environment shows of a policy: checked, kept with the arm's result, and shown in the report."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from toy_endings import BuiltToy, Toy

from rlhf_lab import compare
from rlhf_lab.errors import LabError
from rlhf_lab.pictures import check_svg, inline_svg
from rlhf_lab.study.report.page import report_html, write_report
from rlhf_lab.study.results_json import results_from_json, results_to_json
from rlhf_lab.study.store import Store
from rlhf_lab.training.exhibits import Exhibit

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><defs><path id="p" d="M0 0h9"/></defs>'
    '<use href="#p" fill="url(#p)"/><text>a &lt; b</text></svg>'
)


class BuiltShow(BuiltToy):
    def exhibits(self, policy: Tensor) -> list[Exhibit]:
        rows = [("win", float(policy[0, 0])), ("go on", float(policy[0, 1])), ("<b>none</b>", nan)]
        return [
            Exhibit("The first state", "All that can be done there.", SQUARE, ("action", "probability"), tuple(rows)),
            Exhibit("The second state", picture=SQUARE),
        ]


class Show(Toy):
    name = "toy_show"

    def build(self, runs: int, envs: int, streams: Any) -> BuiltShow:
        return BuiltShow(self.world(), runs, envs, streams)


UNTRAINED: dict[str, Any] = {"environment": Show(), "policy": "tabular_softmax", "gamma": 0.9}
TRAINED: dict[str, Any] = UNTRAINED | {
    "trainer": {"name": "online", "envs": 4, "steps": 8},
    "advantage": "gae",
    "objective": "reinforce",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "budget": {"iterations": 4},
}


def study(spec: dict[str, Any], *measure: str) -> dict[str, Any]:
    return {"title": "t", "spec": spec, "arms": {"one": {}, "two": {}}, "seeds": 2, "measure": list(measure)}


# ---- pictures


def test_names_in_a_picture_get_a_key_and_text_stays_text() -> None:
    found = inline_svg(SQUARE, "e1")
    assert found == (
        '<svg viewBox="0 0 9 9"><defs><path id="e1-p" d="M0 0h9" /></defs>'
        '<use href="#e1-p" fill="url(#e1-p)" /><text>a &lt; b</text></svg>'
    )


def test_labels_of_a_picture_point_into_it() -> None:
    link = 'xmlns:x="http://www.w3.org/1999/xlink"'
    found = inline_svg(f'<svg {link} aria-labelledby="t d"><title id="t">Ra(1)</title><use x:href="#t"/></svg>', "k")
    assert 'aria-labelledby="k-t k-d"' in found and '<title id="k-t">Ra(1)</title><use href="#k-t" />' in found


HARMFUL = {
    "<svg": "found what is no XML",
    "<p>text</p>": "expected one <svg> element, found <p>",
    "<svg/><svg/>": "found what is no XML",
    "<svg><script>alert(1)</script></svg>": "<script> is not allowed. Possible: ",
    "<svg><foreignObject/></svg>": "<foreignObject> is not allowed",
    "<svg><image href='x.png'/></svg>": "<image> is not allowed",
    "<svg><a href='#p'/></svg>": "<a> is not allowed",
    "<svg><animate attributeName='href'/></svg>": "<animate> is not allowed",
    "<svg><style>p {}</style></svg>": "<style> is not allowed",
    "<svg xmlns:h='http://www.w3.org/1999/xhtml'><h:g/></svg>": r"<\{http://www.w3.org/1999/xhtml\}g> is not allowed",
    "<svg onload='alert(1)'/>": "a script or a source in onload='alert\\(1\\)' of <svg>",
    "<svg><use href='http://x.y/z.svg#p'/></svg>": "a reference to something outside of the picture in href",
    "<svg xmlns:x='http://www.w3.org/1999/xlink'><use x:href='z.svg#p'/></svg>": "outside of the picture",
    "<svg><g fill='url(http://x.y)'/></svg>": "outside of the picture in fill",
    "<svg><g fill='url(\"#p\")'/></svg>": "outside of the picture in fill",
    "<svg><g style='cursor: image-set(\"x\" 1x)'/></svg>": r"the function image-set\(\) in style",
    r"<svg><g style='fill: \75rl(x)'/></svg>": "an escape in style",
    "<!DOCTYPE svg [<!ENTITY a 'b'>]><svg>&a;</svg>": "a document type is not allowed",
}


@pytest.mark.parametrize(("svg", "says"), HARMFUL.items())
def test_what_may_run_or_load_is_refused(svg: str, says: str) -> None:
    with pytest.raises(LabError, match=f"picture: .*{says}"):
        check_svg(svg)
    with pytest.raises(LabError, match=f"exhibit 'x': picture: .*{says}"):
        Exhibit("x", picture=svg)


def test_a_table_is_a_table_of_words_and_finite_numbers() -> None:
    with pytest.raises(LabError, match="exhibit 'x': row 1 has 1 cells for 2 columns"):
        Exhibit("x", columns=("a", "b"), rows=(("c", 1), ("d",)))
    with pytest.raises(LabError, match="exhibit 'x': a cell is infinite"):
        Exhibit("x", columns=("a",), rows=((inf,),))


# ---- of arms


def test_the_final_policy_of_the_first_seed_is_shown(tmp_path: Path) -> None:
    results = compare(study(TRAINED, "learning_curve", "exhibits"), out=tmp_path)
    odds = np.exp(results.arms[0].weights["logits"][0, 0].astype(float))
    chance = odds[0] / odds.sum()
    first, second = results.arms[0].exhibits
    assert first.rows[0] == ("win", pytest.approx(float(chance), rel=1e-6)) and first.rows[0][1] != 1 / 3
    assert second == Exhibit("The second state", picture=SQUARE)
    # kept, and read again, in the run directory and in results.json
    kept = Store(tmp_path).results().arms[0].exhibits
    again = results_from_json(results_to_json(results)).arms[0].exhibits
    for read in (kept, again):
        assert repr(read) == repr((first, second)) and isnan(float(read[0].rows[2][1]))
    assert not list(tmp_path.rglob("*.pkl"))


def test_the_initial_policy_is_shown_where_nothing_is_trained() -> None:
    for spec in (UNTRAINED, TRAINED):
        (shown, _) = compare(study(spec, "exhibits")).arms[0].exhibits
        assert shown.rows[0] == ("win", pytest.approx(1 / 3))


def test_a_first_seed_that_failed_shows_nothing() -> None:
    spec = TRAINED | {"optimizer": {"name": "sgd", "lr": 1e30}}
    arm = compare(study(spec, "learning_curve", "exhibits")).arms[0]
    assert arm.failed[0] and arm.exhibits == ()


@pytest.mark.parametrize("measure", [("exhibits",), ("exhibits", "learning_curve")])
def test_an_environment_without_exhibits_is_refused(measure: tuple[str, ...]) -> None:
    with pytest.raises(LabError, match="measure: exhibits needs an environment that shows some; this one has none"):
        compare(study(TRAINED | {"environment": Toy()}, *measure))


# ---- on the page


def test_the_page_shows_them_by_arm_with_names_of_their_own(tmp_path: Path) -> None:
    results = compare(study(UNTRAINED, "exhibits"))
    page = report_html(results)
    assert page == report_html(results) and page.count("<h4>The first state</h4>") == 2
    assert page.index("Looked at closely") < page.index("<h2>Provenance")
    assert '<td>&lt;b&gt;none&lt;/b&gt;</td><td class="n">—</td>' in page
    assert '<td>win</td><td class="n">0.3333</td>' in page and '<th class="n">probability</th>' in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(ids)) == len(ids) and {"e1-1-p", "e1-2-p", "e2-1-p", "e2-2-p"} <= set(ids)
    assert not re.search(r'(?:src|href)="(?:https?:)?//|<script', page)
    for folder in ("one", "two"):
        write_report(results, tmp_path / folder)
    assert (tmp_path / "one/report.html").read_bytes() == (tmp_path / "two/report.html").read_bytes()
    without = replace(results, arms=tuple(replace(arm, exhibits=()) for arm in results.arms))
    assert "Looked at closely" not in report_html(without)


def test_a_kept_picture_is_checked_when_it_is_read(tmp_path: Path) -> None:
    text = results_to_json(compare(study(UNTRAINED, "exhibits")))
    with pytest.raises(LabError, match="<script> is not allowed"):
        results_from_json(text.replace("<use href", "<script href"))
