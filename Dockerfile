# The gateway: no torch, no transformers, no vllm. Workers run the images of the vLLM project.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY deploy/locks/gateway.lock deploy/locks/gateway.lock
RUN python -m venv /opt/thalamus \
 && /opt/thalamus/bin/pip install --no-cache-dir --require-hashes --requirement deploy/locks/gateway.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY router_models router_models
RUN /opt/thalamus/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/thalamus /opt/thalamus
COPY router_models/artifacts /srv/router_models/artifacts
COPY configs /srv/configs
WORKDIR /srv
USER 65534:65534
ENV PATH=/opt/thalamus/bin:$PATH PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=2s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=1)"]
ENTRYPOINT ["thalamus"]
CMD ["serve", "--config", "configs/gateway.yaml"]
