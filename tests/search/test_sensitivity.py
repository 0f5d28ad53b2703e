"""Sensitivity: each site alone at each width."""

import pytest

import lpcaffe as lp
from lpcaffe.allocation import site_tensors
from lpcaffe.errors import PlanError
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.sensitivity import sensitivity
from lpcaffe.search.trials import Trials


@pytest.fixture
def table(branches, data):
    stats = lp.calibrate(branches, data(branches))
    _, tensors = site_tensors(branches, stats, lp.Policy())
    return FormatTable(tensors, stats.images)


def test_every_site_is_measured_at_every_width(branches, data, table):
    seen = []
    trials = Trials(branches, data(branches), measure=lp.Measure(engine="numpy"))
    found = sensitivity(trials, table, widths=[3, 6], progress=lambda *numbers: seen.append(numbers))
    assert tuple(row.site for row in found.rows) == table.sites
    assert seen == [(i + 1, len(table.sites)) for i in range(len(table.sites))]
    for row in found.rows:
        assert list(row.formats) == [table(row.site, 3), table(row.site, 6)]
        assert list(row.scores) == [trials({row.site: fmt}) for fmt in row.formats]
    assert found.baseline == trials.baseline
    for column, site in enumerate(found.worst):
        noises = {row.site: row.scores[column].noise for row in found.rows}
        assert noises[site] == max(noises.values()) > 0


def test_one_kind_of_sites_can_be_asked_for(branches, data, table):
    trials = Trials(branches, data(branches))
    for kind in ("weights", "output"):
        found = sensitivity(trials, table, widths=[4], only=kind)
        assert [row.site for row in found.rows] == [site for site in table.sites if site.role == kind] != []


def test_the_report_has_a_row_a_site(branches, data, table):
    found = sensitivity(Trials(branches, data(branches)), table, widths=[2, 8])
    values = found.to_json()
    assert (values["network"], values["output"], values["engine"]) == ("branches", "prob", "onnxruntime")
    assert values["data"] == {"images": 19, "source": "arrays in memory, 19 prepared blobs"}
    assert values["widths"] == [2, 8]
    assert values["baseline"]["sqnr_db"] is None
    assert values["baseline"]["agreement"] == 1
    for entry, row in zip(values["parts"], found.rows, strict=True):
        assert (entry["layer"], entry["kind"], entry["values"]) == (
            row.site.layer,
            row.site.role,
            table.sizes[row.site],
        )
        assert entry["formats"] == [str(fmt) for fmt in row.formats]
        assert [score["top1"] for score in entry["scores"]] == [score.top1 for score in row.scores]


@pytest.mark.parametrize(("how", "text"), [({"only": "bias"}, "expected only"), ({"widths": []}, "no width")])
def test_nothing_to_measure_is_an_error(branches, data, table, how, text):
    with pytest.raises(PlanError, match=text):
        sensitivity(Trials(branches, data(branches)), table, **how)
