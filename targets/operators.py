"""The operator names that profiles may use, by format."""

from functools import cache

INTERNAL = frozenset({"SimplifiedLayerNormalization"})
"""Operators that ONNX Runtime registers in ONNX's own domain, though no standard has them."""

CONTRIBUTED = frozenset(
    {
        "Attention",
        "BeamSearch",
        "BiasGelu",
        "DecoderMaskedMultiHeadAttention",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GatherBlockQuantized",
        "Gelu",
        "GreedySearch",
        "GridSample",
        "GroupQueryAttention",
        "Inverse",
        "MatMulBnb4",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MoE",
        "MultiHeadAttention",
        "NhwcMaxPool",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearConvTranspose",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QMoE",
        "QuantizeLinear",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "SparseAttention",
        "Trilu",
    }
)
"""Operators of ONNX Runtime's domain ``com.microsoft`` that models or its own optimizer bring."""


@cache
def known_operators(form: str) -> frozenset[str]:
    """Return every operator name of ``onnx`` or ``tflite``."""
    if form == "tflite":
        from m4c.targets.read_tflite import builtin_names

        return frozenset(builtin_names().values()) - {"DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"}
    import onnx

    standard = {s.name for s in onnx.defs.get_all_schemas() if s.domain in ("", "ai.onnx")}
    return frozenset(standard | INTERNAL | {f"com.microsoft::{name}" for name in CONTRIBUTED})
