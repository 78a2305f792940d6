"""The parts of the benchmark suite; `checks/bench/run` starts them."""
