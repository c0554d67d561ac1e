# The collector and the vendors' stand-in for the tests. Included by the Makefile.
#
# The version of the OpenTelemetry Collector is written here and nowhere else: `make
# collector-generate` carries it into the manifests' modules. Both lines belong to one release.
COLLECTOR_CONTRIB := v0.144.0
COLLECTOR_CORE    := v1.50.0

COLLECTOR   := collector/dist/otelcol-metaflow
VENDORS     := tests/vendors/dist/otelcol-vendors
IMAGE       ?= otelcol-metaflow:latest

IMAGE_FILES := collector/dist/image

# buildah first: with chroot isolation it needs no daemon and no namespaces of its own.
BUILDER := $(firstword $(foreach tool,buildah podman docker,$(if $(shell command -v $(tool)),$(tool))))
export BUILDAH_ISOLATION ?= chroot

go_flags = -trimpath -ldflags='-s -w'
go_build = cd $(1) && CGO_ENABLED=0 go build $(go_flags) -o $(abspath $@) .

.PHONY: collector collector-run collector-test collector-generate vendors image bench-collector

collector: $(COLLECTOR) ## the collector, collector/dist/otelcol-metaflow
vendors: $(VENDORS) ## the vendors' own receivers, for the tests

OURS := destinations listenerauth variableprovider variables runlookup ackgate storage disklimiter reservedattributes histogrambuckets delivery finitevalues series
collector_sources := $(wildcard $(foreach module,distribution $(OURS),collector/$(module)/*.go collector/$(module)/*/*.go collector/$(module)/go.*))

$(COLLECTOR): $(collector_sources)
	$(call go_build,collector/distribution)

$(VENDORS): $(wildcard tests/vendors/distribution/*.go tests/vendors/distribution/go.*)
	$(call go_build,tests/vendors/distribution)

# Queues beside the binary, so that a try-out leaves nothing in the home directory.
collector-run: $(COLLECTOR) ## run it with the shipped configuration
	COLLECTOR_QUEUE_DIR=$${COLLECTOR_QUEUE_DIR:-collector/dist/queue} $(COLLECTOR) --config collector/config/config.yaml

collector-test: ## tests of its Go code
	$(foreach module,$(OURS),cd $(CURDIR)/collector/$(module) && go vet ./... && go test ./... &&) true

bench-collector: $(COLLECTOR) $(VENDORS) ## what an outage of a vendor costs, and what the collector carries
	.venv/bin/python bench/outages.py

# The builder's own `go mod download` asks for modules that no build needs and that not every
# proxy has, so it only writes the sources, and `go build` resolves them. Not every module is in
# the checksum database either: the sums that get committed are what is checked from then on.
collector-generate: export GONOSUMDB = *
collector-generate: ## write its Go module anew, after a change of version or manifest
	$(foreach ours,destinations listenerauth variableprovider variables,cd $(CURDIR)/collector/$(ours) && \
		go get $(foreach module,$(CONFMAP),go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) && go mod tidy &&) true
	$(foreach ours,runlookup reservedattributes histogrambuckets finitevalues,cd $(CURDIR)/collector/$(ours) && \
		go get $(foreach module,component consumer pdata processor,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) \
		$(foreach module,processorhelper processortest,go.opentelemetry.io/collector/processor/$(module)@$(COLLECTOR_CONTRIB)) && go mod tidy &&) true
	cd collector/ackgate && go get $(foreach module,component config/configoptional config/configretry consumer exporter pdata,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) \
		$(foreach module,connector exporter/exporterhelper,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CONTRIB)) && go mod tidy
	cd collector/delivery && go get $(foreach module,component confmap extension pdata,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) \
		$(foreach module,consumer/consumererror extension/extensionmiddleware,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CONTRIB)) && go mod tidy
	cd collector/series && go get $(foreach module,component consumer pdata processor,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) \
		$(foreach module,extension/xextension processor/processortest,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CONTRIB)) && go mod tidy
	cd collector/storage && go get $(foreach module,component extension,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) \
		go.opentelemetry.io/collector/extension/xextension@$(COLLECTOR_CONTRIB) \
		github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage@$(COLLECTOR_CONTRIB) && go mod tidy
	cd collector/disklimiter && go get $(foreach module,component consumer pdata processor,go.opentelemetry.io/collector/$(module)@$(COLLECTOR_CORE)) && go mod tidy
	$(call generate,collector,$(COLLECTOR))
	$(call generate,tests/vendors,$(VENDORS))

CONFMAP := confmap confmap/provider/envprovider confmap/provider/fileprovider confmap/provider/yamlprovider

define generate
	rm -rf $(1)/distribution && mkdir -p $(1)/dist
	sed 's/@CONTRIB@/$(COLLECTOR_CONTRIB)/; s/@CORE@/$(COLLECTOR_CORE)/' $(1)/manifest.yaml > $(1)/dist/manifest.yaml
	cd $(1) && go run go.opentelemetry.io/collector/cmd/builder@$(COLLECTOR_CONTRIB) --config dist/manifest.yaml --skip-get-modules --skip-compilation
	rm $(1)/distribution/main_windows.go
	gofmt -w $(1)/distribution
	cd $(1)/distribution && CGO_ENABLED=0 go build -mod=mod $(go_flags) -o $(abspath $(2)) .
endef

# The binary and the certificates of this machine, in the place of the Dockerfile's build stage:
# nothing is pulled.
image: $(IMAGE_FILES)/otelcol-metaflow ## the collector's container image
	$(if $(BUILDER),,$(error make image needs buildah, podman or docker))
	mkdir -p $(IMAGE_FILES)/queue
	go version -m $< > $(IMAGE_FILES)/modules.txt
	cp $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem)) $(IMAGE_FILES)/ca-certificates.crt
	$(BUILDER) build --build-context build=$(IMAGE_FILES) -t $(IMAGE) collector

$(IMAGE_FILES)/otelcol-metaflow: $(collector_sources)
	cd collector/distribution && GOOS=linux CGO_ENABLED=0 go build $(go_flags) -o $(abspath $@) .
