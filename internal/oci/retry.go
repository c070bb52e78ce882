package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// repeating is an http.RoundTripper that asks again where a registry has said that it is busy, or has hung up before it
// said anything.
type repeating struct {
	base   http.RoundTripper
	limits Limits
	report func(string)
}

// RoundTrip sends a request, more than once if need be.
func (r *repeating) RoundTrip(request *http.Request) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		response, err := r.base.RoundTrip(request)
		pause, again := r.pause(attempt, response, err)
		if !again {
			return response, err
		}
		if request, err = r.next(request, response, pause); err != nil {
			return nil, err
		}
	}
}

// pause returns how long to wait before the next attempt, if there is to be one.
func (r *repeating) pause(attempt int, response *http.Response, err error) (time.Duration, bool) {
	if attempt >= r.limits.Repeat || !passing(response, err) {
		return 0, false
	}
	own := r.limits.Pause << attempt
	if response == nil {
		return own, true
	}
	asked := retryAfter(response, time.Now())
	return max(asked, own), asked <= r.limits.Wait
}

// passing reports whether a failure may be over soon. A registry that has been silent for long enough is not asked again.
func passing(response *http.Response, err error) bool {
	if err != nil {
		return broken(err)
	}
	switch response.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// broken reports whether a connection has ended too soon. HTTP/2 has errors of its own for that, whose types net/http
// keeps to itself.
func broken(err error) bool {
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return false
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return strings.Contains(err.Error(), "stream error: ") || strings.Contains(err.Error(), "http2: ")
}

// retryAfter reads the header, which has seconds or a date (RFC 9110, section 10.2.3): 0 if there is none, or if it is
// over already. More seconds than fit a number are as many as fit.
func retryAfter(response *http.Response, now time.Time) time.Duration {
	value := response.Header.Get("Retry-After")
	seconds, err := strconv.ParseInt(value, 10, 32)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return max(time.Duration(seconds)*time.Second, 0)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(date.Sub(now), 0)
}

// next waits, and returns the request to send then.
func (r *repeating) next(request *http.Request, response *http.Response, pause time.Duration) (*http.Request, error) {
	if response != nil {
		_ = response.Body.Close()
		if pause >= time.Second {
			r.report(fmt.Sprintf("%s answers %s: waiting %s", request.URL.Host, response.Status, pause))
		}
	}
	if err := sleep(request.Context(), pause); err != nil {
		return nil, err
	}
	if request.Body == nil || request.GetBody == nil {
		return request, nil
	}
	body, err := request.GetBody()
	if err != nil {
		return nil, err
	}
	again := request.Clone(request.Context())
	again.Body = body
	return again, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
