"""Several inputs at once on a CPU: in order, with torch's threads shared out, the same bytes whatever is left to compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from stages.device.threads import AT_ONCE, read_and_compute, shares


@pytest.fixture
def six_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("six_threads")
def test_as_many_at_once_as_the_run_has_inputs_for() -> None:
    assert [shares(of) for of in (0, 1, 2, 3, 4, 100)] == [(1, 6), (1, 6), (2, 3), (3, 2), (4, 1), (4, 1)]
    torch.set_num_threads(1)
    assert shares(100) == (1, 1)


@pytest.mark.usefixtures("six_threads")
def test_map_in_order_with_the_threads_shared_out() -> None:
    threads: set[int] = set()
    running, most = 0, 0
    counting = threading.Lock()

    def compute(value: int) -> int:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        threads.add(torch.get_num_threads())
        time.sleep(0.01 * (value % 3))
        with counting:
            running -= 1
        return value * value

    assert list(read_and_compute(str, lambda text: compute(int(text)), range(12), "cpu", 12)) == [
        v * v for v in range(12)
    ]
    assert 1 < most <= AT_ONCE
    assert threads == {6 // AT_ONCE}
    assert torch.get_num_threads() == 6


@pytest.mark.usefixtures("six_threads")
def test_the_threads_of_an_input_do_not_depend_on_what_is_left() -> None:
    for of, each in ((100, 1), (3, 2), (2, 3)):
        found = list(read_and_compute(int, lambda _: torch.get_num_threads(), [7], "cpu", of))
        assert found == [each]


@pytest.mark.usefixtures("six_threads")
def test_one_input_and_a_gpu_compute_in_the_callers_thread_with_all_threads() -> None:
    for inputs, device in (([3], "cpu"), ([3, 4], "cuda")):
        names: set[tuple[str, int]] = set()

        def compute(value: int, seen: set[tuple[str, int]] = names) -> int:
            seen.add((threading.current_thread().name, torch.get_num_threads()))
            return value

        assert list(read_and_compute(int, compute, inputs, device, len(inputs))) == inputs
        assert names == {(threading.current_thread().name, 6)}


@pytest.mark.usefixtures("six_threads")
def test_an_error_comes_in_its_turn_and_ends_the_rest() -> None:
    begun: list[int] = []

    def compute(value: int) -> int:
        begun.append(value)
        time.sleep(0.005)
        return 6 // (value - 5)

    results = read_and_compute(int, compute, range(200), "cpu", 200)
    assert [next(results) for _ in range(5)] == [-2, -2, -2, -3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 5 + 4 * AT_ONCE
    assert torch.get_num_threads() == 6
