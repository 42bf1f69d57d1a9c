# syntax=docker/dockerfile:1
# Dependencies compile in a layer of their own, which only a change of Cargo.lock or a Cargo.toml makes again.
FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake pkg-config protobuf-compiler \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY tests tests
COPY benchmarks benchmarks
COPY prompts prompts
COPY rubrics rubrics
COPY docs docs
# `cpu` or `cuda`; the latter needs an image with CUDA's compiler as BASE of this stage.
ARG FEATURES=""
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --locked --release -p evalign --features "${FEATURES}" \
 && cp target/release/evalign /evalign

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl python3-pip \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin evalign \
 && mkdir /data \
 && chown evalign:evalign /data
COPY --from=build /evalign /usr/local/bin/evalign
USER 10001
ENV EVALIGN_HOME=/data \
    EVALIGN_SERVE__ADDRESS=0.0.0.0:8080
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=5 \
    CMD ["curl", "--fail", "--silent", "--show-error", "--max-time", "2", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["evalign"]
CMD ["serve"]
