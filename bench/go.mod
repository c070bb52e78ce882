module github.com/banger-vm/banger/bench

go 1.26.0

require (
	github.com/Microsoft/hcsshim v0.14.1
	github.com/banger-vm/banger v0.0.0
	github.com/docker/go-units v0.5.0
	github.com/klauspost/compress v1.20.3
	golang.org/x/sync v0.25.0
	golang.org/x/sys v0.50.0
)

require (
	github.com/containerd/cgroups/v3 v3.0.5 // indirect
	github.com/distribution/reference v0.6.0 // indirect
	github.com/docker/cli v29.7.2+incompatible // indirect
	github.com/docker/docker-credential-helpers v0.9.3 // indirect
	github.com/golang/groupcache v0.0.0-20210331224755-41bb18bfe9da // indirect
	github.com/google/go-containerregistry v0.22.1 // indirect
	github.com/hashicorp/yamux v0.1.2 // indirect
	github.com/mikelolasagasti/xz v1.0.1 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	go.opencensus.io v0.24.0 // indirect
	google.golang.org/protobuf v1.36.6 // indirect
)

replace github.com/banger-vm/banger => ..
