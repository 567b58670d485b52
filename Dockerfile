# The gateway, which is the default target, and a CPU worker with the demo's models (--target worker-cpu).
#
# The gateway's image is made from nothing: Python, the libraries it loads and the gateway, without shell, pip, package
# manager or torch. What is in it: /opt/thalamus/sbom.json (CycloneDX), and /var/lib/dpkg/status.d for Debian's part.

# Version and digest as several public repositories have them together; Debian 12 gets security fixes until 2028.
FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171 AS base
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A stable release changes for security only, so its newest versions are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get upgrade --yes \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv tzdata \
 && rm -rf /var/lib/apt/lists/*


FROM base AS build
WORKDIR /src
COPY deploy/locks/gateway.lock deploy/locks/image.lock deploy/locks/
RUN python3 -m venv /opt/tools \
 && python3 -m venv --without-pip /opt/thalamus \
 && /opt/tools/bin/pip install --no-compile --require-hashes --requirement deploy/locks/image.lock \
 && /opt/tools/bin/pip --python /opt/thalamus/bin/python install --require-hashes --requirement deploy/locks/gateway.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY router_models router_models
# The date inside the wheel, so that the same sources give the same bytes.
ARG SOURCE_DATE_EPOCH=1767225600
RUN /opt/tools/bin/python -m hatchling build --target wheel --directory /dist \
 && /opt/tools/bin/pip --python /opt/thalamus/bin/python install --no-index --no-deps /dist/*.whl \
 && /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /opt/thalamus/sbom.json /opt/thalamus/bin/python
COPY deploy/image/minimal_root.py deploy/image/minimal_root.py
RUN python3 deploy/image/minimal_root.py /rootfs


# An unmodified vLLM on CPU, with the demo's models built in. Its arguments are those of deploy/vllm/serve.sh.
FROM base AS worker-cpu
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /srv
COPY deploy/locks deploy/locks
COPY deploy/environment.sh deploy/environment.sh
COPY pyproject.toml ./
RUN UV_NO_CACHE=1 UV_LINK_MODE=copy deploy/environment.sh vllm && rm -rf .venv-tools
COPY deploy/demo deploy/demo
RUN .venv-vllm/bin/python deploy/demo/build_models.py && chmod --recursive a+rX var/models
COPY deploy/vllm deploy/vllm
ENV HOME=/tmp HOST=0.0.0.0 PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
EXPOSE 8101
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s \
    CMD [".venv-vllm/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8101/health', timeout=4)"]
ENTRYPOINT ["deploy/vllm/serve.sh"]
CMD ["base", "8101"]


FROM scratch AS gateway
COPY --from=build /rootfs /
COPY configs /srv/configs
WORKDIR /srv
ENV PATH=/opt/thalamus/bin PYTHONDONTWRITEBYTECODE=1 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65534:65534
VOLUME /srv/var
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=1)"]
ENTRYPOINT ["thalamus"]
CMD ["serve", "--config", "configs/gateway.yaml"]
