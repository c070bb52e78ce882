package api

import (
	"errors"
	"net/http"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// Failure is the body of an answer that is an error.
type Failure struct {
	Error *Error `json:"error"`
}

// Error is an error on its way to a client.
type Error struct {
	Kind    string `json:"kind"` // one of KindNames
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what can be done about it
	// ExitCode is docker's for a command that could not be started in a VM: 126 or 127.
	ExitCode int `json:"exit_code,omitempty"`
}

// kind is how a fault.Kind is called, and the HTTP status that it gives.
type kind struct {
	kind   fault.Kind
	name   string
	status int
}

func kinds() []kind {
	return []kind{
		{fault.Failure, "failure", http.StatusInternalServerError},
		{fault.Usage, "usage", http.StatusBadRequest},
		{fault.NotFound, "not-found", http.StatusNotFound},
		{fault.Unreachable, "unreachable", http.StatusBadGateway},
		{fault.Corrupt, "corrupt", http.StatusInternalServerError},
		{fault.Unsupported, "unsupported", http.StatusUnprocessableEntity},
		{fault.Platform, "platform", http.StatusUnprocessableEntity},
		{fault.NoSpace, "no-space", http.StatusInsufficientStorage},
		{fault.Conflict, "conflict", http.StatusConflict},
		{fault.NoTool, "no-tool", http.StatusInternalServerError},
		{fault.Boot, "boot", http.StatusInternalServerError},
		{fault.NotRunning, "not-running", http.StatusConflict},
		{fault.Interrupted, "interrupted", http.StatusServiceUnavailable},
	}
}

// KindNames returns the names of all kinds of errors.
func KindNames() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func kindOf(err error) kind {
	for _, k := range kinds() {
		if k.kind == fault.KindOf(err) {
			return k
		}
	}
	return kinds()[0]
}

// ErrorOf returns err as it is sent; nil for nil.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	sent := &Error{Kind: kindOf(err).name, Message: err.Error(), Hint: fault.HintOf(err)}
	var refused *frame.Refusal
	var start *monitor.StartError
	switch {
	case errors.As(err, &start):
		sent.ExitCode = start.Code
	case errors.As(err, &refused):
		sent.ExitCode = exec.Code(refused)
	}
	return sent
}

// StatusOf returns the HTTP status for err.
func StatusOf(err error) int {
	if sent := ErrorOf(err); sent.ExitCode != 0 && fault.KindOf(err) == fault.Failure {
		return http.StatusUnprocessableEntity // it is the request that asks for a command which is not there
	}
	return kindOf(err).status
}

// Received returns the error as it was: a fault and, for a command that could not be started, a *monitor.StartError. It is
// nil for nil.
func (e *Error) Received() error {
	if e == nil {
		return nil
	}
	err := errors.New(e.Message)
	if e.ExitCode != 0 {
		err = &monitor.StartError{Message: e.Message, Code: e.ExitCode}
	}
	for _, k := range kinds() {
		if k.name == e.Kind {
			return fault.New(k.kind, err, e.Hint)
		}
	}
	return fault.New(fault.Failure, err, e.Hint)
}
