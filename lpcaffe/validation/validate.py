"""The proof: rounding of every weight, error of every layer, agreement of the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lpcaffe.calibration import BATCH, Progress
from lpcaffe.data import Data
from lpcaffe.dialects import dialect_of
from lpcaffe.errors import DataError, WeightsError
from lpcaffe.net import Net
from lpcaffe.numbers.decibels import rounded_db
from lpcaffe.quant.apply import check_full_precision
from lpcaffe.quant.plan import BitPlan
from lpcaffe.validation.comparison import Comparison, OutputAgreement, compare
from lpcaffe.validation.metric import Metric
from lpcaffe.validation.pairs import check_formats, layer_pairs, matching_float_net, read_quant_net
from lpcaffe.validation.rounding import BlobCheck, check_rounding


@dataclass(frozen=True)
class ValidationReport:
    """What was checked and what came of it. `failures` has a sentence for each check that did not hold."""

    network: str
    source: str | None
    rounding: list[BlobCheck]
    comparison: Comparison | None
    failures: list[str]

    @property
    def holds(self) -> bool:
        """Whether every check held."""
        return not self.failures

    @property
    def classifier(self) -> OutputAgreement | None:
        """The output that decides: the first Softmax, or else the last output."""
        outputs = self.comparison.outputs if self.comparison else []
        return next((output for output in outputs if output.classifier), None)

    def __str__(self) -> str:
        """The report in a few lines."""
        counted = [check for check in self.rounding if check.counts]
        differing, total = sum(check.differing for check in counted), sum(check.count for check in counted)
        lines = [f"{self.network}: {total:,} rounded values, {differing:,} differ from round_fp"]
        if self.comparison is not None:
            lines += [f"layer {self.comparison.worst} loses most"] if self.comparison.worst else []
            for output in self.comparison.outputs:
                agreement = "" if output.agreement is None else f", agreement {output.agreement:.3%}"
                lines.append(f"output {output.blob}: largest change {output.error.max_abs_error:.3g}{agreement}")
            lines += [f"metric {self.comparison.metric:.6g}"] if self.comparison.metric is not None else []
        return "\n".join(lines + [f"FAILED: {failure}" for failure in self.failures])

    def to_json(self) -> dict[str, Any]:
        """The report as plain values. An sqnr_db of null means no error at all, or no signal."""
        comparison = self.comparison
        data = None if comparison is None else {"images": comparison.images, "source": self.source}
        return {
            "version": 1,
            "network": self.network,
            "holds": self.holds,
            "failures": self.failures,
            "data": data,
            "rounding": [check.to_json() for check in self.rounding],
            "layers": [] if comparison is None else _layer_rows(comparison),
            "worst_layer": None if comparison is None else comparison.worst,
            "float_sites": None if comparison is None else [site.path for site in comparison.float_sites],
            "outputs": [] if comparison is None else [_output_row(output) for output in comparison.outputs],
            "metric": None if comparison is None else comparison.metric,
        }


def _layer_rows(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for pair in comparison.pairs:
        row: dict[str, Any] = {
            "name": pair.name,
            "type": pair.type,
            "weights": None if pair.weights is None else str(pair.weights),
            "output": None if pair.output is None else str(pair.output),
        }
        for kind, error in (
            ("isolated", comparison.isolated[pair.name]),
            ("accumulated", comparison.accumulated[pair.name]),
        ):
            row[kind] = {
                "sqnr_db": rounded_db(error.sqnr_db),
                "max_abs_error": error.max_abs_error,
                "saturated_fraction": error.saturated_fraction,
                "zero_fraction": error.zero_fraction,
            }
        rows.append(row)
    return rows


def _output_row(output: OutputAgreement) -> dict[str, Any]:
    row: dict[str, Any] = {
        "blob": output.blob,
        "classifier": output.classifier,
        "agreement": output.agreement,
        "sqnr_db": rounded_db(output.error.sqnr_db),
        "max_abs_error": output.error.max_abs_error,
    }
    for k in (1, 5):
        accuracy = output.accuracy(k)
        row[f"top{k}"] = None if accuracy is None else {"full": accuracy[0], "low": accuracy[1]}
    return row


def validate(
    net: Net,
    quant_net: Net,
    data: Data | None = None,
    *,
    plan: BitPlan | None = None,
    min_agreement: float | None = None,
    batch: int = BATCH,
    metric: Metric | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Check a low-precision network against the full-precision one it came from.

    `net` and `quant_net` have weights. Without data only the rounding of the weights is checked. The plan is needed for
    the plain dialect, whose prototxt holds no activation formats, and for the seed of stochastic rounding. Agreement is
    that of the classifier's decisions, 0 to 1; with `min_agreement`, less is a failure. Labels come with the data.
    `metric` is a figure of the user's own, see `lpcaffe.validation.metric`. Raises NetError and WeightsError when
    `quant_net` cannot have been made from `net`, PlanError when the plan is for another network or another dialect.
    """
    if metric is not None and data is None:
        raise DataError("--metric needs data", hint="give --data")
    if min_agreement is not None and data is None:
        raise DataError("--min-agreement needs data", hint="give --data")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise DataError(f"expected a minimum agreement between 0 and 1, got {min_agreement}")
    for one in (net, quant_net):
        if one.weights is None:
            raise WeightsError("validation needs weights", path=one.path)
    check_full_precision(net)
    float_net = matching_float_net(net, quant_net)
    if plan is not None:
        plan.check(net)
    if plan is not None or dialect_of(quant_net).marked:
        quantized = read_quant_net(quant_net, plan)
        layer_pairs(float_net, quant_net, quantized)  # refuses a network that is not the source
        if plan is not None and dialect_of(quant_net).marked:
            check_formats(quantized, plan, float_net)
    checks = check_rounding(float_net, quant_net, plan)
    failures = [
        f'layer "{check.layer}" blob {check.blob}: {check.differing} of {check.count} values are not '
        f"round_fp of the full-precision ones, the first at {check.first}"
        for check in checks
        if not check.holds
    ]
    comparison = None
    if data is not None:
        comparison = compare(float_net, quant_net, data, plan=plan, batch=batch, metric=metric, progress=progress)
    report = ValidationReport(net.name, data.source if data is not None else None, checks, comparison, failures)
    if min_agreement is not None:
        output = report.classifier
        if output is None or output.agreement is None:
            failures.append("no output has classes to agree on")
        elif output.agreement < min_agreement:
            failures.append(f'"{output.blob}" agrees in {output.agreement:.4%}, expected at least {min_agreement:.4%}')
    return report
