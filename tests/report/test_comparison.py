import base64
from typing import Any

import pytest

from semivss.errors import DataError
from semivss.recipe import parse_recipe
from semivss.report.comparison import comparison

TOY = {"kind": "toy"}
RECIPE = parse_recipe({"name": "run", "data": {"train": [TOY], "unlabelled": [TOY]}, "teacher": {}, "semi": {}})


def _scores(miou: float | None, vc8: float | None) -> dict[str, Any]:
    return {"val": {"miou": miou, "vc8": vc8}, "test": {"miou": 0.5, "vc8": None}}


CONTENT = {"teacher": _scores(0.5, 0.9), "ensemble": _scores(0.61, None), "student": _scores(0.4, 0.8), "retrained": _scores(0.61, 0.7)}


def test_rows_begin_with_the_student_and_end_with_the_ensemble() -> None:
    table = comparison(RECIPE, CONTENT)
    assert table is not None
    titles = ["student, labelled frames only", "teacher, labelled frames only", "student, retrained", "ensemble"]
    assert [row.title for row in table.rows] == titles
    assert [row.note for row in table.rows] == ["", "", "", "teacher, labelled frames only + student, retrained"]
    assert table.baseline == titles[0]
    assert (table.groups, table.starts, table.columns) == ((("val", 2), ("test", 2)), (0, 2), ("mIoU", "VC8", "mIoU", "VC8"))


def test_gains_are_measured_from_the_student_and_the_best_is_marked() -> None:
    table = comparison(RECIPE, CONTENT)
    assert table is not None
    student, teacher, retrained, ensemble = (row.cells for row in table.rows)
    assert [cell.gain for cell in student] == [None] * 4
    assert retrained[0].gain == pytest.approx(0.21)
    assert retrained[1].gain == pytest.approx(-0.1)
    assert ensemble[1].gain is None  # not measured
    assert [row.cells[0].best for row in table.rows] == [False, False, True, True]  # equal ones both
    assert [row.cells[1].best for row in table.rows] == [False, True, False, False]
    assert not any(row.cells[3].best for row in table.rows)
    assert teacher[3].value is None


def test_gains_are_measured_from_a_control_of_equal_steps_where_there_is_one() -> None:
    semi = RECIPE.semi.model_copy(update={"controls": ("supervised",)})
    recipe = RECIPE.model_copy(update={"semi": semi})
    table = comparison(recipe, CONTENT | {"control": _scores(0.45, 0.8)})
    assert table is not None
    assert table.baseline == "student, as many steps again on labelled frames"
    assert table.fair
    gains = {row.title: row.cells[0].gain for row in table.rows}
    assert gains[table.baseline] is None
    assert gains["student, retrained"] == pytest.approx(0.16)
    assert gains["student, labelled frames only"] == pytest.approx(-0.05)
    alone = comparison(recipe, CONTENT)  # it was not scored
    assert alone is not None
    assert alone.baseline == "student, labelled frames only"
    assert not alone.fair


def test_picture_names_models_and_numbers() -> None:
    table = comparison(RECIPE, CONTENT)
    assert table is not None
    assert table.picture is not None
    svg = base64.b64decode(table.picture.partition(",")[2]).decode()
    for text in ("student, retrained", "ensemble", "61.0", "40.0", "val: mIoU, %", "test: mIoU, %"):
        assert f">{text}</text>" in svg


def test_without_the_student_there_are_no_gains() -> None:
    table = comparison(RECIPE, {"teacher": _scores(0.5, 0.9), "<b>other": {"val": {"miou": 0.1}}})
    assert table is not None
    assert table.baseline == ""
    assert [row.title for row in table.rows] == ["teacher, labelled frames only", "<b>other"]
    assert all(cell.gain is None for row in table.rows for cell in row.cells)
    assert [cell.value for cell in table.rows[1].cells] == [0.1, None, None, None]


def test_nothing_compared_no_table() -> None:
    assert comparison(RECIPE, {}) is None


@pytest.mark.parametrize("content", [{"student": 1}, {"student": {"val": 0.5}}, {"student": {"val": {"miou": "high"}}}])
def test_what_is_no_table_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"comparison: .*score again"):
        comparison(RECIPE, content)


def test_a_warning_about_a_set_is_no_column_and_comes_once() -> None:
    content = {model: sets | {"val": sets["val"] | {"warning": "seen"}} for model, sets in CONTENT.items()}
    table = comparison(RECIPE, content)
    assert table is not None
    assert table.warnings == (("val", "seen"),)
    assert table.columns == ("mIoU", "VC8", "mIoU", "VC8")
    plain = comparison(RECIPE, CONTENT)
    assert plain is not None
    assert plain.warnings == ()
    with pytest.raises(DataError, match=r"not \{model"):
        comparison(RECIPE, {"student": {"val": {"warning": 1}}})
