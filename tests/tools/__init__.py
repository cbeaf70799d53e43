"""Programs behind the make targets: demo, playground, benches, chaos, mutants. It holds no test."""
