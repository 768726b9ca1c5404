# syntax=docker/dockerfile:1
# One image for every service of compose.yaml: the command decides what it is.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/pipeline
ENV PATH=/opt/pipeline/bin:$PATH
WORKDIR /build
# The dependencies change more seldom than the code, and are a layer of their own: an empty package asks for them.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir pipeline && touch pipeline/__init__.py \
    && pip install --constraint constraints.txt hatchling \
    && pip install --constraint constraints.txt --no-build-isolation '.[cli,flower,binary]'
COPY pipeline pipeline
RUN pip install --constraint constraints.txt --no-build-isolation --no-deps --force-reinstall .

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin pipeline
COPY --from=build /opt/pipeline /opt/pipeline
# The service around the library; not in the wheel, so it comes as files.
WORKDIR /app
COPY settings settings
COPY tasks tasks
ENV PATH=/opt/pipeline/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER pipeline
CMD ["celery", "-A", "tasks", "worker", "--loglevel=INFO"]
