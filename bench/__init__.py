"""The benchmarks: what a real server costs, beside a named thing in the same run. See docs/performance.md."""
