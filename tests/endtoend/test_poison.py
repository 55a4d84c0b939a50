"""One bucket of an open store shows what drives counters up: the others go on, and it is named and can be replaced."""

from __future__ import annotations

from dataclasses import replace

import pytest

import skyhold
from skyhold.consensus.acceptor import COUNTER_MAX, Ballot
from skyhold.consensus.acceptor_object import decode_acceptor, encode_acceptor, object_key, parse_object_key
from skyhold.errors import Corrupt, Unavailable
from skyhold.registry.lifecycle import recover_register
from skyhold.registry.root import register_key
from skyhold.store.register_recovery import RegisterPlan
from tests.endtoend.machines import Machine, Scene
from tests.endtoend.stores import catch_up, head, push


def poison(store: skyhold.Store, scene: Scene, name: str, *, accepted: bool = False) -> None:
    """An attacker with write access to this bucket, and so with the keys in it, promises the greatest ballot
    everywhere; `accepted` also under it the last value as one of the greatest version."""
    connection = store._connection
    incarnation = dict(connection.document.engine.voters)[name]
    registers = scene.cloud(name) / "registers"
    for path in [path for path in registers.rglob("*") if path.is_file()]:
        place = parse_object_key(str(path.relative_to(scene.cloud(name))))
        assert place is not None
        held = decode_acceptor(path.read_bytes(), *place, incarnation, connection.keys)
        state = replace(held.state, promised=Ballot(COUNTER_MAX, "f" * 32))
        if accepted and state.value:
            last = state.value[-1]
            value = (replace(last, value=replace(last.value, version=COUNTER_MAX - 1)),)
            state = replace(state, accepted=state.promised, value=value)
        path.write_bytes(encode_acceptor(replace(held, state=state), *place, incarnation, connection.keys))


def test_push_goes_on_where_one_bucket_shows_the_greatest_ballot(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        push(store, scene, 1)
        catch_up(store)
        poison(store, scene, "b")
        push(store, scene, 2)
    with skyhold.open(str(scene.cloud("c"))) as store:
        third = push(store, scene, 3, "team/new")
        status = store.engine_status()
        assert (status.quorum, [voter.name for voter in status.voters if voter.error]) == ("degraded", ["b"])
        assert "far above" in str(next(voter.error for voter in status.voters if voter.name == "b"))
        store.replace_voter("b")
        assert store.engine_status().quorum == "whole"
        assert head(store, "team/new") == third
    scene.lose("a")
    with Machine(scene.place / "eve").at_work(), skyhold.open(str(scene.cloud("b"))) as store:
        assert head(store, "team/new") == third
        push(store, scene, 4)


def test_minority_begins_anew_without_a_bucket_that_shows_the_greatest_ballot(scene: Scene, ada: Machine) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        poison(store, scene, "b")
    (scene.cloud("a") / "registers" / "ffffffff").mkdir()
    (scene.cloud("a") / "registers" / "ffffffff" / "config").write_bytes(b"of no epoch")
    scene.lose("c")
    with skyhold.open(str(scene.cloud("a"))) as store, pytest.raises(Unavailable, match="far above"):
        push(store, scene, 2)
    recovered, report = skyhold.recover(str(scene.cloud("a")), minority=True)
    with recovered:
        assert (report.epoch, report.answered) == (2, ("a",))
        assert head(recovered) == first
        push(recovered, scene, 2)


@pytest.mark.parametrize("last", [False, True])
def test_recovery_of_a_register_does_not_go_on_from_what_no_honest_bucket_can_show(
    scene: Scene, ada: Machine, *, last: bool
) -> None:
    with skyhold.open(str(scene.cloud("a"))) as store:
        first = push(store, scene, 1)
        catch_up(store)
        poison(store, scene, "b", accepted=True)
        key = object_key(1, register_key(store.repository("team/m").id))
    for name in "ac" if last else "a":
        (scene.cloud(name) / key).write_bytes(b"damaged")
    url = str(scene.cloud("a"))
    with skyhold.open(url) as store, pytest.raises(Corrupt) as caught:
        head(store)
    assert caught.value.code == "register_damaged"
    plans: list[RegisterPlan] = []
    recover_register(url, "team/m", empty=last, consent=plans.append)[0].close()
    states = {finding.voter: finding.state for finding in plans[0].voters}
    assert states == {"a": "damaged", "b": "damaged", "c": "damaged" if last else "intact"}
    with skyhold.open(url) as store:
        if not last:
            assert head(store) == first
        second = push(store, scene, 2)
        assert (head(store), store.engine_status().quorum) == (second, "whole")
