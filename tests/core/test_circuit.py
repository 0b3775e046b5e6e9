"""Heads and circuits: names, order, JSON form, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Mlp
from nnsight_et.core.errors import TaskError

CIRCUIT = Circuit(
    (
        HeadGroup("value_fetcher", "last", (Head(9, 3), Head(2, 11))),
        HeadGroup("position_transmitter", "last", (Head(4, 0), Head(9, 3))),
        HeadGroup("structure_reader", "previous_query_label", (Head(0, 7),)),
    )
)


def test_a_head_is_printed_and_read_back():
    assert str(Head(9, 3)) == "L9H3"
    assert f"{Head(0, 12)}" == "L0H12"
    assert Head.parse("L10H31") == Head(10, 31)


def test_heads_sort_in_the_order_of_a_forward_pass():
    assert sorted([Head(10, 0), Head(2, 11), Head(2, 3)]) == [Head(2, 3), Head(2, 11), Head(10, 0)]


def test_the_first_head_of_a_layer_is_not_its_mlp():
    head, mlp = Head(3, 0), Mlp(3)
    assert head != mlp
    assert not head == mlp  # noqa: SIM201 - each is a method of its own
    assert mlp != head
    assert len({head, mlp}) == len(dict.fromkeys([mlp, head])) == 2
    assert (head, mlp) == ((3, 0), (3, 0)) == (Head(3, 0), Mlp(3))
    assert hash(head) == hash((3, 0))


@pytest.mark.parametrize("name", ["", "9.3", "L9", "L9H", "l9h3", "L9H3 ", "L-1H2", "L9H3\n", 93, None])
def test_what_is_not_a_heads_name_is_refused_with_an_example(name):
    with pytest.raises(TaskError, match="such as L9H3"):
        Head.parse(name)


def test_a_circuit_knows_its_positions_its_size_and_the_heads_at_a_position():
    assert CIRCUIT.positions == ("last", "previous_query_label")
    assert CIRCUIT.size == 5
    assert CIRCUIT.at("last") == {Head(9, 3), Head(2, 11), Head(4, 0)}
    assert CIRCUIT.at("query_label") == frozenset()


def test_a_group_is_found_by_its_name_and_an_unknown_one_names_the_closest():
    assert CIRCUIT.group("structure_reader").heads == (Head(0, 7),)
    with pytest.raises(TaskError, match=r"no group 'value_fetchers'; did you mean 'value_fetcher'\?"):
        CIRCUIT.group("value_fetchers")


def test_json_keeps_groups_positions_and_ranks():
    text = CIRCUIT.to_json()
    assert Circuit.from_json(text) == CIRCUIT
    written = json.loads(text)
    assert written["schema"] == 1
    assert written["groups"][0] == {"name": "value_fetcher", "at": "last", "heads": ["L9H3", "L2H11"]}


GROUP = {"name": "a", "at": "last", "heads": ["L0H1"]}
BROKEN = {
    "not JSON": ("{", "here: not JSON"),
    "deep": ("[" * 100_000, "here: nested too deep"),
    "a list": ("[]", "here: not a circuit"),
    "another schema": (json.dumps({"schema": 2, "groups": []}), "here: not a circuit"),
    "no groups": (json.dumps({"schema": 1}), "here: not a circuit"),
    "a missing key": (
        json.dumps({"schema": 1, "groups": [{"name": "a", "at": "last"}]}),
        r"here: groups\[0\]: accepted",
    ),
    "another key": (json.dumps({"schema": 1, "groups": [GROUP | {"more": 1}]}), r"here: groups\[0\]: accepted"),
    "heads as text": (
        json.dumps({"schema": 1, "groups": [GROUP | {"heads": "L0H1"}]}),
        r"groups\[0\]: heads is not a list",
    ),
    "a head's name": (json.dumps({"schema": 1, "groups": [GROUP | {"heads": ["L0"]}]}), r"groups\[0\]: 'L0' is not"),
    "a head twice": (json.dumps({"schema": 1, "groups": [GROUP | {"heads": ["L0H1", "L0H1"]}]}), "L0H1 appears twice"),
    "a name twice": (json.dumps({"schema": 1, "groups": [GROUP, GROUP]}), "two groups have the same name"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_circuit_that_cannot_be_read_is_refused_where_it_is_wrong(text, message):
    with pytest.raises(TaskError, match=message):
        Circuit.from_json(text, "here")


def test_a_circuit_outside_the_model_is_refused():
    CIRCUIT.check_fits(10, 12, "here")
    for layers, heads, head in ((9, 12, "L9H3"), (10, 11, "L2H11")):
        with pytest.raises(
            TaskError, match=f"here: group value_fetcher has {head}; the model has layers L0-L{layers - 1}"
        ):
            CIRCUIT.check_fits(layers, heads, "here")


def test_circuits_are_read_without_importing_torch():
    program = "import sys, nnsight_et.core.circuit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
