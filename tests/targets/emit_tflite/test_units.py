"""Which nodes become one operator."""

from m4c.targets.emit_tflite.units import Unit, units
from tests.targets.emit_tflite.graphs import Build, drawn


def names(made: tuple[Unit, ...]) -> list[str]:
    return [unit.operator for unit in made]


def test_a_product_by_a_stored_matrix_takes_its_bias() -> None:
    b = Build()
    product = b.op("MatMul", b.input("x", 5, 8), b.weight("w", drawn(8, 6)))
    bias = b.weight("b", drawn(6))
    total = b.op("Add", product, bias)
    (unit,) = units(b.model(total).graph)
    assert unit.operator == "Linear"
    assert unit.inputs[2] is bias
    assert unit.outputs == (total,)


def test_a_bias_of_another_size_stays_an_add() -> None:
    b = Build()
    product = b.op("MatMul", b.input("x", 5, 8), b.weight("w", drawn(8, 6)))
    assert names(units(b.model(b.op("Add", product, b.weight("b", drawn(1)))).graph)) == ["Linear", "Add"]


def test_a_product_that_the_graph_returns_stays_alone() -> None:
    b = Build()
    product = b.op("MatMul", b.input("x", 5, 8), b.weight("w", drawn(8, 6)))
    model = b.model(product, b.op("Add", product, b.weight("b", drawn(6))))
    assert names(units(model.graph)) == ["Linear", "Add"]


def test_a_product_of_two_computed_values_is_no_linear_layer() -> None:
    b = Build()
    model = b.model(b.op("MatMul", b.input("x", 5, 8), b.input("y", 8, 6)))
    assert names(units(model.graph)) == ["MatMul"]


def test_powers_and_reciprocal_square_roots() -> None:
    b = Build()
    x = b.input("x", 8)
    root = b.op("Reciprocal", b.op("Sqrt", x))
    power = b.op("Pow", root, b.store("e", -0.5))
    squared = b.op("Pow", power, b.store("two", 2))
    cubed = b.op("Pow", squared, b.store("three", 3))
    shared = b.op("Sqrt", cubed)
    model = b.model(b.op("Reciprocal", shared), shared)
    assert names(units(model.graph)) == ["Rsqrt", "Rsqrt", "Square", "Pow", "Sqrt", "Reciprocal"]


def test_a_power_of_several_exponents_stays_a_power() -> None:
    b = Build()
    model = b.model(b.op("Pow", b.input("x", 2), b.store("e", [2, 2])))
    assert names(units(model.graph)) == ["Pow"]
