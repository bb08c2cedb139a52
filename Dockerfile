# docker build -t cql_atari . && docker run --rm -it -v "$PWD/runs:/cql_atari/runs" cql_atari make quickstart
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /cql_atari
COPY requirements.lock setup.py pyproject.toml Makefile README.md ./
COPY cql_atari cql_atari
COPY gin_configs gin_configs
RUN make environment
COPY . .
ENV PATH="/cql_atari/.venv/bin:$PATH"
CMD ["python", "-m", "cql_atari", "--help"]
