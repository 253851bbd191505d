# The BIDS app: docker run -v DATA:/data:ro -v OUT:/out IMAGE /data /out participant --template …  (docs/bids.md)
FROM python:3.12-slim

LABEL org.opencontainers.image.title="DeepFLASH" \
      org.opencontainers.image.description="Registers the images of a data set in BIDS to a template" \
      org.opencontainers.image.source="https://github.com/deepflash-registration/SlicerDeepFLASH" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY pyproject.toml README.md LICENSE /src/
COPY DeepFLASHRegistration /src/DeepFLASHRegistration
# torch for CPUs, without gigabytes of CUDA.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "torch==2.13.0+cpu" "/src[x5]" \
    && rm -r /src \
    # Apps are run as whoever asks (docker run --user), who must be able to write at home.
    && mkdir -m 777 /home/app

ENV HOME=/home/app \
    PYTHONUNBUFFERED=1
WORKDIR /home/app
ENTRYPOINT ["deepflash", "bids"]
