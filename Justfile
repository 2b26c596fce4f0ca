# The verbs of this project; `just --list` shows them. Everything runs in the environment that is active.

# Everything that can be checked without a model
check: && test
    ruff format --check
    ruff check
    mypy
    lint-imports
    python .ci/budgets.py

# The tests, with arguments for pytest: `just test -k config`
test *arguments:
    python -m pytest {{ arguments }}

# Bring the code into shape
format:
    ruff format
    ruff check --fix

# Tests that need the weights of the local model
live:
    python -m pytest -m live

# Lock what pyproject.toml asks for; `just lock --upgrade` takes in newer versions
lock *arguments:
    uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --quiet {{ arguments }} --output-file requirements/run.txt
    uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --quiet {{ arguments }} --group dev --constraints requirements/run.txt --output-file requirements/dev.txt
    printf 'hatchling\neditables\n' | uv pip compile - --universal --generate-hashes --no-header --no-annotate --quiet {{ arguments }} --constraints requirements/dev.txt --output-file requirements/build.txt

# Everything the build does, in a fresh environment
ci:
    .ci/run
