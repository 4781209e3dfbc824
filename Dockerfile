# syntax=docker/dockerfile:1
# One image for every service: docker run millrace run moderator --config /etc/millrace/millrace.toml

FROM rust:1.95-slim-bookworm AS build
# TLS, zstd and SQLite are vendored: a C toolchain builds them, no system library is needed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake perl pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --ignore-rust-version --package millrace --no-default-features \
    && cp target/release/millrace /usr/local/bin/millrace

FROM debian:bookworm-slim
# curl is for the health check.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/millrace --create-home millrace
COPY --from=build /usr/local/bin/millrace /usr/local/bin/millrace
COPY infra/kafka /usr/share/millrace/kafka
USER 10001
WORKDIR /var/lib/millrace
# /metrics, /health and /ready of every service; 8080 is the ingress.
ENV MILLRACE_TELEMETRY__LISTEN=0.0.0.0:9464 \
    MILLRACE_TELEMETRY__LOG_FORMAT=json
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:9464/health"]
# A drain waits for running calls: give the container as long to stop (stage.drain_ms).
STOPSIGNAL SIGTERM
ENTRYPOINT ["millrace"]
CMD ["--help"]
