# syntax=docker/dockerfile:1
# docker build .                               CPU
# docker build --build-arg VARIANT=cuda .      NVIDIA GPUs of CUDA_COMPUTE_CAP or newer
# Between builds, downloaded sources and compiled dependencies stay in caches of the builder.
ARG VARIANT=cpu

FROM rust:1.95-slim-bookworm AS toolchain-cpu
ENV FEATURES=""

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS toolchain-cuda
COPY --from=toolchain-cpu /usr/local/rustup /usr/local/rustup
COPY --from=toolchain-cpu /usr/local/cargo /usr/local/cargo
ARG CUDA_COMPUTE_CAP=80
ENV FEATURES=cuda \
    CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} \
    RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:${PATH}

# hadolint ignore=DL3006
FROM toolchain-${VARIANT} AS build
ARG VARIANT
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake pkg-config protobuf-compiler \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY tests tests
COPY examples examples
COPY benchmarks benchmarks
COPY prompts prompts
COPY rubrics rubrics
COPY docs docs
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,id=target-${VARIANT} \
    cargo build --locked --release -p evalign --features "${FEATURES}" \
 && cp target/release/evalign /evalign

FROM debian:bookworm-slim AS system-cpu

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS system-cuda

# hadolint ignore=DL3006
FROM system-${VARIANT}
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
