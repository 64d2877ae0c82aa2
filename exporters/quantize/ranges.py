"""How the range of a product's inputs is found from samples: names, and what each runtime's quantizer calls them."""

from __future__ import annotations

from typing import Any, Literal, get_args

Method = Literal["minmax", "percentile", "entropy"]

METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99
"""Of the numbers that are inside the range, by `percentile`."""


def onnxruntime_options(method: Method | None) -> dict[str, Any]:
    """Arguments of `onnxruntime.quantization.quantize_static`; by default the least and the largest number of all samples.

    `entropy` looks for the range that loses least information (Migacz 2017, "8-bit inference with TensorRT") among few: its
    quantizer's histogram has 128 bins, none beyond the largest number of the first sample is given up.
    """
    from onnxruntime.quantization import CalibrationMethod

    found = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    # one sample at a time, whatever the method: together they would be held in memory, and samples of several lengths refused
    extra: dict[str, Any] = {"CalibStridedMinMax": 1}
    if method == "percentile":
        extra |= {"CalibPercentile": PERCENTILE, "CalibTensorRangeSymmetric": False}
    return {"calibrate_method": found[method or "minmax"], "extra_options": extra}


def nncf_options(nncf: Any, method: Method | None) -> dict[str, Any]:
    """Arguments of `nncf.AdvancedQuantizationParameters`; by default the mean of every sample's least and largest number.

    `percentile` is the mean of every sample's. Where `entropy` is asked, NNCF's histograms are taken: they too look for the range
    that loses least.
    """
    if method is None:
        return {}
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    def quantile() -> Any:
        return StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            aggregator_type=AggregatorType.MEAN,
            quantile_outlier_prob=(1 - PERCENTILE / 100) / 2,
        )

    found = {
        "minmax": RangeEstimatorParametersSet.MINMAX,
        "percentile": RangeEstimatorParameters(min=quantile(), max=quantile()),
        "entropy": RangeEstimatorParametersSet.HISTOGRAM,
    }
    return {"activations_range_estimator_params": found[method]}
