package oci

import (
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// alreadyAlone is the variable of the environment by which a test knows that it has a process to itself.
const alreadyAlone = "BANGER_TEST_IN_A_PROCESS_OF_ITS_OWN"

// inOwnProcess runs the test again in a process of its own, and reports whether this is that one: net/http reads the
// environment's proxies once in a process.
func inOwnProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(alreadyAlone) != "" {
		return true
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), alreadyAlone+"=1")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// TestNoProxyForThisMachine: what counts as this machine, and so gets credentials without TLS, is not asked for by
// another.
func TestNoProxyForThisMachine(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	var seen []string
	proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host)
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Setenv("HTTP_PROXY", "http://"+proxy)
	t.Setenv("HTTPS_PROXY", "http://"+proxy)
	for host, asked := range map[string]bool{
		"registry.example": true, "localhost:1": false, "127.0.0.1:1": false, "k3d.localhost:1": false,
	} {
		seen = nil
		checkPull(t, host+"/r:v1", alone(t), fault.Unreachable, "")
		if got := len(seen) > 0; got != asked {
			t.Errorf("%s: the proxy was asked for %q, want it asked: %t", host, seen, asked)
		}
	}
}
