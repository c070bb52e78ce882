// Package apitest judges what a daemon and its clients say to each other by docs/openapi.yaml, for tests.
package apitest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/banger-vm/banger/docs"
	"github.com/banger-vm/banger/internal/api"
)

// Load reads the description and checks it by the rules of OpenAPI, examples included.
func Load(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(docs.OpenAPI())
	if err != nil {
		t.Fatalf("docs/openapi.yaml cannot be read: %v", err)
	}
	if err := doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatalf("docs/openapi.yaml is not OpenAPI: %v", err)
	}
	return doc
}

// Judge returns a handler that has daemon answer, and that fails the test when an answer is not as described, or when a
// request that is not as described is not refused.
func Judge(t testing.TB, daemon http.Handler) http.Handler {
	return &judge{t: t, doc: Load(t), daemon: daemon}
}

type judge struct {
	t      testing.TB
	doc    *openapi3.T
	daemon http.Handler
}

// largest is the largest body of a request that is judged, in bytes.
const largest = 1 << 20

// ServeHTTP has the daemon answer, and judges that.
func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, largest))
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), r.Body))
	record := &recorder{ResponseWriter: w}
	j.daemon.ServeHTTP(record, r)
	method, path, found := strings.Cut(r.Pattern, " ")
	if !found || len(body) == largest {
		return // no route, which is not described either
	}
	if err := j.judge(method, strings.TrimPrefix(path, "/"+api.Version), r, body, record); err != nil {
		j.t.Errorf("%s %s answers %d, which is not as docs/openapi.yaml says: %v\nthe request: %.500s\nthe answer: %.500s",
			r.Method, r.URL, record.status, err, body, record.body.Bytes())
	}
}

func (j *judge) judge(method, path string, r *http.Request, body []byte, answer *recorder) error {
	item := j.doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		return fmt.Errorf("it describes no %s %s", method, path)
	}
	operation := item.GetOperation(method)
	parameters := map[string]string{}
	for _, p := range item.Parameters {
		parameters[p.Value.Name] = r.PathValue(p.Value.Name)
	}
	request := r.Clone(context.Background())
	request.Body = io.NopCloser(bytes.NewReader(body))
	request.Header.Set("Content-Type", api.JSON) // which curl does not send
	input := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: parameters,
		Route: &routers.Route{Spec: j.doc, Path: path, PathItem: item, Method: method, Operation: operation},
	}
	if err := openapi3filter.ValidateRequest(request.Context(), input); err != nil && answer.status < http.StatusBadRequest {
		return fmt.Errorf("the request is accepted: %w", err)
	}
	return j.judgeAnswer(input, operation, answer)
}

func (j *judge) judgeAnswer(
	input *openapi3filter.RequestValidationInput, operation *openapi3.Operation, answer *recorder,
) error {
	described := operation.Responses.Status(answer.status)
	if described == nil && answer.status >= http.StatusBadRequest {
		described = operation.Responses.Default()
	}
	if described == nil {
		return fmt.Errorf("it describes no answer with the status %d", answer.status)
	}
	if answer.Header().Get("Content-Type") == api.Events {
		return judgeLines(described.Value.Content, answer.body.Bytes())
	}
	if kind := answer.Header().Get("Content-Type"); strings.HasSuffix(kind, "yaml") || kind == api.Tar {
		return nil
	}
	return openapi3filter.ValidateResponse(input.Request.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answer.status, Header: answer.Header(),
		Body: io.NopCloser(&answer.body), Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
}

// judgeLines judges each line and, in the last one, the result by what the answer is without progress.
func judgeLines(content openapi3.Content, body []byte) error {
	lines := content[api.Events]
	if lines == nil {
		return fmt.Errorf("it describes no answer of lines")
	}
	for line := range bytes.Lines(body) {
		if err := fits(lines.Schema.Value, line); err != nil {
			return fmt.Errorf("the line %.500s: %w", line, err)
		}
		var event api.Event
		if json.Unmarshal(line, &event) != nil || event.Result == nil {
			continue
		}
		if err := fits(content[api.JSON].Schema.Value, event.Result); err != nil {
			return fmt.Errorf("the result %.500s: %w", event.Result, err)
		}
	}
	return nil
}

func fits(schema *openapi3.Schema, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	return schema.VisitJSON(value, openapi3.EnableJSONSchema2020())
}

// recorder keeps an answer while it passes.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// Unwrap gives http.ResponseController the rest of what a ResponseWriter can do.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack notes that the answer is an upgrade.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.status = http.StatusSwitchingProtocols
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(code int) {
	r.status = code
	r.ResponseWriter.WriteHeader(code)
}

// Write keeps b.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body.Write(b)
	return r.ResponseWriter.Write(b)
}
