package oci

import (
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPause: how long to wait before a request is repeated, and when not to.
func TestPause(t *testing.T) {
	r := &repeating{limits: Limits{Pause: time.Second, Repeat: 3, Wait: time.Minute}}
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	const no = -1
	for _, test := range []struct {
		name       string
		attempt    int
		retryAfter string
		want       time.Duration // of a date, or up to 2 s more
	}{
		{"first", 0, "", time.Second},
		{"third", 2, "", 4 * time.Second},
		{"last", 3, "", no},
		{"seconds", 0, "30", 30 * time.Second},
		{"date", 0, in(32 * time.Second), 30 * time.Second},
		{"at once", 2, "0", 4 * time.Second},
		{"since a minute", 2, in(-time.Minute), 4 * time.Second},
		{"less than its own", 2, "1", 4 * time.Second},
		{"negative", 2, "-1", 4 * time.Second},
		{"words", 2, "soon", 4 * time.Second},
		{"too long", 0, "61", no},
		{"too long a date", 0, in(time.Hour), no},
		{"a number without end", 0, "99999999999999999999", no},
	} {
		response := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}}
		response.Header.Set("Retry-After", test.retryAfter)
		got, again := r.pause(test.attempt, response, nil)
		var slack time.Duration
		if strings.HasSuffix(test.retryAfter, "GMT") {
			slack = 2 * time.Second
		}
		if again != (test.want != no) || again && (got < test.want || got > test.want+slack) {
			t.Errorf("%s: Retry-After %q: waits %s, again %t; want %s", test.name, test.retryAfter, got, again, test.want)
		}
	}
	if got, again := r.pause(1, nil, syscall.ECONNRESET); got != 2*time.Second || !again {
		t.Errorf("a connection that ends: waits %s, again %t; want 2s", got, again)
	}
	if _, again := r.pause(0, nil, errors.New("another")); again {
		t.Errorf("another error: is repeated")
	}
}
