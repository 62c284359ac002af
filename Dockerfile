# docker build -t pipa . && docker run --rm -v "$PWD/out:/work" pipa demo
# The torch of the package index runs on CPUs and on NVIDIA GPUs (docker run --gpus all --shm-size=2g ...). Another build of
# torch, such as the much smaller CPU one: --build-arg TORCH=2.13.0+cpu --build-arg PIP_EXTRA_INDEX_URL=(PyTorch's own index).
FROM rust:1-bookworm AS build
ARG TORCH=2.13.0
ARG PIP_EXTRA_INDEX_URL=""
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-dev
RUN python3 -m venv /venv
ENV PATH=/venv/bin:$PATH VIRTUAL_ENV=/venv PIP_NO_CACHE_DIR=1
RUN pip install "torch==${TORCH}" "maturin>=1.7,<2" "wheel>=0.43" setuptools numpy
COPY . /src
# The OpenCV that mmcv asks for draws windows and needs libxcb, libGL and GLib; the headless one goes over it.
RUN pip install --no-build-isolation "/src[mmseg]" && pip install --force-reinstall --no-deps opencv-python-headless

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["pipa"]
CMD ["--help"]
