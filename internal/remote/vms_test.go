package remote

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/api"
)

// TestStopLimit: the daemon is told of every limit, also of none at all, in whose place it would put its own.
func TestStopLimit(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "banger-") // short enough for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan time.Duration, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop := api.Stop{Limit: time.Hour} // the daemon's own
		if err := json.NewDecoder(r.Body).Decode(&stop); err != nil {
			t.Error(err)
		}
		asked <- stop.Limit
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	client := New(Config{Socket: socket})
	for _, limit := range []time.Duration{0, time.Second} {
		if err := client.StopVM(t.Context(), "web", limit); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != limit {
			t.Errorf("a limit of %v is one of %v for the daemon", limit, got)
		}
	}
}
