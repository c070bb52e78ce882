package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/distribution/reference"

	"github.com/banger-vm/banger/internal/fault"
)

const daemonHint = "the daemon sends something else than `docker save` writes: is it docker or podman that listens there?"

// resolveDaemon fetches an image of a docker daemon, or of podman's service, which is compatible. NAME is a name or an id.
// The daemon sends the image as `docker save` writes it, and its order is free, so all of it is kept in a file without a
// name until Close.
func resolveDaemon(ctx context.Context, rest string, opts Options) (*Image, error) {
	name, err := daemonName(rest)
	if err != nil {
		return nil, err
	}
	d, err := connectDaemon(ctx, opts.DockerHost)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	a, err := d.save(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	image, chosen, err := a.chooseImage(ctx, savedRef(name), opts.Platform)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	image.Reference, image.Name = daemonPrefix+name, archiveName(chosen, strings.TrimPrefix(name, "sha256:"), savedRef(name))
	return image, nil
}

// imageID matches an id of an image, or the beginning of one that people copy.
var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`)

// daemonName completes a name, since the daemon would send all tags of one without; an id stays. An error is a fault.Usage.
func daemonName(name string) (string, error) {
	if name == "" {
		return "", fault.New(fault.Usage, errors.New("reading the reference: it names no image"), "write docker-daemon:NAME")
	}
	if imageID.MatchString(name) {
		return name, nil
	}
	named, err := parseNamed(name)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

// savedRef returns the name by which the image is found in what the daemon sends: that has one image if it is an id or
// a digest that was asked for.
func savedRef(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if _, byDigest := named.(reference.Digested); err != nil || byDigest || imageID.MatchString(name) {
		return ""
	}
	return name
}

// dockerDaemon is a docker daemon, or one that answers like it.
type dockerDaemon struct {
	socket string
	conn   net.Conn
	client *http.Client
}

// Close ends the connection.
func (d *dockerDaemon) Close() { _ = d.conn.Close() }

// daemonSockets returns where a daemon may listen: where host says, or else where docker and podman do.
func daemonSockets(host string) ([]string, error) {
	if host != "" {
		socket, isUnix := strings.CutPrefix(host, "unix://")
		if isUnix && filepath.IsAbs(socket) {
			return []string{socket}, nil
		}
		err := fmt.Errorf("connecting to docker: DOCKER_HOST is %q, and banger only connects to a socket of this host", host)
		return nil, fault.New(fault.Unsupported, err, "let docker fetch it: docker save NAME | banger image pull docker-archive:-")
	}
	sockets := []string{"/var/run/docker.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"), filepath.Join(dir, "podman", "podman.sock"))
	}
	return append(sockets, "/run/podman/podman.sock"), nil
}

// connectDaemon finds a daemon that listens.
func connectDaemon(ctx context.Context, host string) (*dockerDaemon, error) {
	sockets, err := daemonSockets(host)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	var failed error
	for _, socket := range sockets {
		conn, err := dialer.DialContext(ctx, "unix", socket)
		if err == nil {
			return newDockerDaemon(socket, conn), nil
		}
		if failed == nil || errors.Is(failed, fs.ErrNotExist) { // that one is not there says less than anything else
			failed = err
		}
	}
	return nil, daemonUnreachable(sockets, failed)
}

// newDockerDaemon takes the connection over, which serves the only request.
func newDockerDaemon(socket string, conn net.Conn) *dockerDaemon {
	transport := &http.Transport{DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return conn, nil
	}}
	return &dockerDaemon{socket: socket, conn: conn, client: &http.Client{Transport: transport}}
}

func daemonUnreachable(sockets []string, err error) error {
	hint := "start docker, or podman's service (podman system service), or set DOCKER_HOST=unix:///PATH of its socket"
	if errors.Is(err, fs.ErrPermission) {
		hint = "your account may not use the socket: join its group, or docker save NAME | banger image pull docker-archive:-"
	}
	err = fmt.Errorf("connecting to docker at %s: %w", strings.Join(sockets, " or "), err)
	return fault.New(fault.Unreachable, err, hint)
}

// save asks for the image (Docker Engine API, ImageGet) and keeps what comes.
func (d *dockerDaemon) save(ctx context.Context, name string, opts Options) (*archive, error) {
	target := url.URL{Scheme: "http", Host: "docker", Path: "/images/" + name + "/get"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return nil, daemonUnreachable([]string{d.socket}, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, d.refusal(name, answer)
	}
	in := input{what: "answer of " + d.socket, hint: daemonHint, temp: opts.TempDir, told: opts.Unpacking}
	file, err := in.spool(ctx, daemonBody{answer.Body})
	if err != nil {
		return nil, err
	}
	return indexArchive(ctx, file, daemonHint)
}

// daemonBody makes a connection that breaks a fault.
type daemonBody struct{ io.Reader }

// Read reads from the connection.
func (b daemonBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = fault.New(fault.Unreachable, fmt.Errorf("the daemon hung up: %w", err), "try again; the daemon's log may say why")
	}
	return n, err
}

// refusal is the error for an answer other than 200.
func (d *dockerDaemon) refusal(name string, answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &said) != nil || said.Message == "" {
		said.Message = strings.TrimSpace(string(text))
	}
	err := fmt.Errorf("asking %s for %q: it answers %s: %s", d.socket, name, answer.Status, said.Message)
	lacking := strings.Contains(strings.ToLower(said.Message), "no such image") || strings.Contains(said.Message, "image not known")
	if answer.StatusCode == http.StatusNotFound || lacking {
		hint := "docker images lists what there is; without docker-daemon: the image is pulled from its registry"
		return fault.New(fault.NotFound, err, hint)
	}
	return fault.New(fault.Unreachable, err, "the daemon's log may say why")
}
