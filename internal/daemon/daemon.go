// Package daemon serves banger's verbs as HTTP and JSON on a Unix socket, one handler for each function of the engine.
// docs/api.md says what a client sees; package api has the types, package remote a client.
//
// A request is cancelled when its client hangs up. VMs belong to their monitors and not to the daemon: when that ends,
// however it ends, they run on.
package daemon

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
)

const (
	// headerLimit is how long a client may take to send the head of a request.
	headerLimit = 10 * time.Second
	// finishLimit is how long requests may go on when the daemon is to stop, before they are cancelled.
	finishLimit = time.Second
	// cleanupLimit is how long requests that are cancelled may take to clean up.
	cleanupLimit = 15 * time.Second
)

// errStopping is why requests end when the daemon does.
var errStopping = fault.New(fault.Interrupted, errors.New("the daemon is stopping"), "")

// Config is what a Server serves.
type Config struct {
	Engine   *engine.Engine
	Versions api.Versions
	OpenAPI  []byte    // served as it is
	Log      io.Writer // for what no client can be told
}

// Server has the handlers.
type Server struct {
	config  Config
	mux     *http.ServeMux
	streams sync.WaitGroup // connections that were upgraded
}

// New returns a Server.
func New(config Config) *Server {
	s := &Server{config: config, mux: http.NewServeMux()}
	for _, r := range s.routes() {
		s.mux.HandleFunc(r.pattern, s.handler(r.handle))
	}
	return s
}

// Serve serves until ctx ends. Requests that do not finish soon are cancelled then, and clean up. It closes listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	life, end := context.WithCancelCause(context.Background())
	defer end(nil)
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: headerLimit, ErrorLog: log.New(s.config.Log, "banger daemon: ", 0),
		BaseContext: func(net.Listener) context.Context { return life },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	if !finished(server, finishLimit) {
		end(errStopping)
		finished(server, cleanupLimit)
	}
	end(errStopping) // the upgraded connections, which the server does not count
	s.streams.Wait()
	_ = server.Close()
	return nil
}

// finished stops listening and waits until no request is under way, for a time.
func finished(server *http.Server, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return server.Shutdown(ctx) == nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.refuseRoute(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// handler makes an HTTP handler of what answers a call.
func (s *Server) handler(handle func(*call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{server: s, w: w, r: r, engine: s.config.Engine}
		if err := handle(c); err != nil {
			c.fail(err)
		}
	}
}
