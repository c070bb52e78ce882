package oci

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/credential"
)

// flaky serves one blob and hangs up after some bytes of each answer.
type flaky struct {
	*content
	ranges  bool  // whether it knows Range
	perCall []int // bytes to send before it hangs up, by call; then everything

	mu      sync.Mutex
	asked   []string // the Range of each call
	stalled chan struct{}
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, id, isBlob := strings.Cut(r.URL.Path, "/blobs/")
	data := f.blobs[digest.Digest(id)]
	if !isBlob || bytes.Contains(data, []byte("rootfs")) {
		f.content.ServeHTTP(w, r)
		return
	}
	f.mu.Lock()
	call := len(f.asked)
	f.asked = append(f.asked, r.Header.Get("Range"))
	f.mu.Unlock()
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && f.ranges {
		offset, err := strconv.Atoi(strings.TrimSuffix(from, "-"))
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Range", "bytes "+strconv.Itoa(offset)+"-"+strconv.Itoa(len(data)-1)+"/"+strconv.Itoa(len(data)))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)-offset))
		data = data[offset:]
		w.WriteHeader(http.StatusPartialContent)
	}
	if call >= len(f.perCall) {
		_, _ = w.Write(data)
		return
	}
	_, _ = w.Write(data[:min(f.perCall[call], len(data))])
	_ = http.NewResponseController(w).Flush()
	if f.stalled != nil {
		<-f.stalled
	}
	panic(http.ErrAbortHandler) // hangs up
}

func TestResumeBrokenDownload(t *testing.T) {
	tests := []struct {
		name    string
		ranges  bool
		perCall []int
		asked   string
		broken  bool
	}{
		{"whole", true, nil, "", false},
		{"once", true, []int{100}, " bytes=100-", false},
		{"often", true, []int{10, 10, 0, 10, 10}, " bytes=10- bytes=20- bytes=20- bytes=30- bytes=40-", false},
		{"no ranges", false, []int{100, 120}, " bytes=100- bytes=120-", false},
		{"for good", true, []int{10, 0, 0, 0, 0, 0}, " bytes=10- bytes=10- bytes=10- bytes=10- bytes=10-", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newContent(t)
			c.tag("v1", c.image("linux/amd64", strings.Repeat("content ", 20000)))
			f := &flaky{content: c, ranges: test.ranges, perCall: test.perCall}
			blob := resolveOK(t, serve(t, f)+"/r:v1", "linux/amd64").Blobs[0]
			r, err := blob.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			data, err := io.ReadAll(r)
			if test.broken != (err != nil) {
				t.Errorf("reading: got the error %v, want one: %t", err, test.broken)
			}
			if got := digest.FromBytes(data).String(); !test.broken && got != blob.Digest {
				t.Errorf("got %d bytes with the digest %s, want %s", len(data), got, blob.Digest)
			}
			if got := strings.Join(f.asked, " "); got != test.asked {
				t.Errorf("ranges: got %q, want %q", got, test.asked)
			}
		})
	}
}

func TestDownloadFromAByteOn(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		c := newContent(t)
		c.tag("v1", c.image("linux/amd64", strings.Repeat("content ", 20000)))
		f := &flaky{content: c, ranges: ranges}
		blob := resolveOK(t, serve(t, f)+"/r:v1", "linux/amd64").Blobs[0]
		whole := readBlob(t, blob)
		for _, offset := range []int64{0, 1, 100, blob.Size - 1, blob.Size} {
			r, err := blob.OpenAt(t.Context(), offset)
			if err != nil {
				t.Fatalf("OpenAt(%d), ranges %t: %v", offset, ranges, err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, whole[offset:]) {
				t.Errorf("OpenAt(%d), ranges %t: got %d bytes and the error %v, want the last %d bytes",
					offset, ranges, len(got), err, blob.Size-offset)
			}
			_ = r.Close()
		}
		if _, err := blob.OpenAt(t.Context(), blob.Size+1); err == nil {
			t.Errorf("OpenAt beyond the end: got no error")
		}
	}
}

func TestDownloadThatStalls(t *testing.T) {
	c := newContent(t)
	c.tag("v1", c.image("linux/amd64", strings.Repeat("content ", 20000)))
	f := &flaky{content: c, ranges: true, perCall: []int{10, 0, 0, 0, 0, 0}, stalled: make(chan struct{})}
	host := serve(t, f)
	defer close(f.stalled)
	opts := options(t, "linux/amd64")
	opts.Access.Limits = hasty(true)
	image, err := Resolve(t.Context(), host+"/r:v1", opts)
	if err != nil {
		t.Fatal(err)
	}
	body, err := image.Blobs[0].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	_, err = io.ReadAll(body)
	checkFault(t, err, fault.Unreachable, "sent nothing for")
}

func TestCancelledDownload(t *testing.T) {
	c := newContent(t)
	c.tag("v1", c.image("linux/amd64", strings.Repeat("content ", 20000)))
	f := &flaky{content: c, perCall: []int{10}, stalled: make(chan struct{})}
	blob := resolveOK(t, serve(t, f)+"/r:v1", "linux/amd64").Blobs[0]
	defer close(f.stalled)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := blob.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading with a context that ends: got %v, want %v", err, context.Canceled)
	}
}

// loggedIn is a file with the USER:PASSWORD of one registry.
func loggedIn(t *testing.T, host, userAndPassword string) *credential.Store {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	auth := base64.StdEncoding.EncodeToString([]byte(userAndPassword))
	writeFile(t, file, fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, host, auth))
	return fromFile(file)
}

// TestLogin pulls with a token that the registry's challenge leads to, and follows a redirect to another host, which
// must not see the token.
func TestLogin(t *testing.T) {
	c := newContent(t)
	c.tag("v1", c.image("linux/amd64", "private"))
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the storage behind the registry got the credentials")
		}
		c.ServeHTTP(w, r)
	}))
	t.Cleanup(storage.Close)
	var host string
	host = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && user == "me" && password == "secret":
			_, _ = w.Write([]byte(`{"token":"good"}`))
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+host+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			c.ServeHTTP(w, r)
		}
	}))
	opts := options(t, "linux/amd64")
	opts.Access.Credentials = loggedIn(t, host, "me:secret")
	image, err := Resolve(t.Context(), host+"/r:v1", opts)
	if err != nil {
		t.Fatalf("Resolve with a login: %v", err)
	}
	if got := texts(t, image); len(got) != 1 || got[0] != "private" {
		t.Errorf("layers: got %q, want private", got)
	}
	opts.Access.Credentials = loggedIn(t, host, "me:wrong")
	_, err = Resolve(t.Context(), host+"/r:v1", opts)
	checkFault(t, err, fault.Unreachable, "banger login "+host, `user "me" of `)
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("error %q: want no password in it", err)
	}
}
