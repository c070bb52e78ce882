package daemon

import (
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/api/apitest"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/machine"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// TestRoutesAreDescribed: docs/openapi.yaml has every route, and every path of it is a route.
func TestRoutesAreDescribed(t *testing.T) {
	var served, described []string
	for _, r := range New(Config{}).routes() {
		served = append(served, r.pattern)
	}
	for path, item := range apitest.Load(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" /"+api.Version+path)
		}
	}
	slices.Sort(served)
	slices.Sort(described)
	if !slices.Equal(served, described) {
		t.Errorf("the daemon's routes and those of docs/openapi.yaml differ:\nserved    %q\ndescribed %q", served, described)
	}
}

// TestOperationsAreNamed: operationId is the name of the handler, for those who read both.
func TestOperationsAreNamed(t *testing.T) {
	paths := apitest.Load(t).Paths
	for _, r := range New(Config{}).routes() {
		method, path, _ := strings.Cut(r.pattern, " /"+api.Version)
		name := runtime.FuncForPC(reflect.ValueOf(r.handle).Pointer()).Name()
		name = name[strings.LastIndex(name, ".")+1:]
		operation := paths.Value(strings.TrimSpace(path)).GetOperation(strings.TrimSpace(method))
		if operation.OperationID != name || operation.Summary == "" {
			t.Errorf("%s: the operationId is %q with the summary %q, the handler is %s", r.pattern, operation.OperationID, operation.Summary, name)
		}
	}
}

// types are the Go types of the schemas.
func types() map[string]any {
	return map[string]any{
		"Failure": api.Failure{}, "Error": api.Error{}, "Event": api.Event{}, "Step": api.Step{}, "Output": api.Output{},
		"Versions": api.Versions{}, "Checks": api.Checks{}, "Check": engine.Check{}, "Removed": api.Removed{},
		"Pull": api.Pull{}, "Pulled": engine.Pulled{}, "Export": api.Export{}, "Images": api.Images{}, "Image": store.Image{},
		"Layer": store.Layer{}, "NamedImage": engine.NamedImage{}, "ImageDetails": engine.ImageDetails{},
		"FileLine": api.FileLine{}, "File": engine.File{}, "Xattr": engine.Xattr{}, "ChangeLine": api.ChangeLine{},
		"Change": engine.Change{}, "FileSystem": engine.FileSystem{}, "ImportKernel": api.ImportKernel{}, "Kernels": api.Kernels{}, "Kernel": kernel.Kernel{},
		"VMChoices": engine.VMOptions{}, "VMOptions": engine.VMOptions{}, "RunOptions": engine.BeginOptions{}, "Size": exec.Size{},
		"Begun": api.Begun{}, "VMs": api.VMs{}, "VM": engine.VM{}, "VMConfig": instance.Config{}, "Workload": instance.Workload{},
		"LastRun": instance.State{}, "Status": monitor.Status{}, "Stop": api.Stop{}, "Signal": api.Signal{}, "Ended": api.Ended{},
		"Pruned": api.Pruned{}, "Publish": api.Publish{}, "Ports": api.Ports{}, "Changed": api.Changed{},
		"Published": port.Published{}, "VMPort": engine.VMPort{}, "Command": exec.Command{}, "Process": api.Process{},
		"PruneOptions": engine.PruneOptions{}, "PrunedImages": api.PrunedImages{}, "PrunedImage": engine.PrunedImage{},
		"PrunedItem": engine.PrunedItem{}, "Usage": api.Usage{}, "UsageTotal": engine.UsageTotal{}, "ImageUsage": engine.ImageUsage{},
		"LayerUsage": engine.LayerUsage{}, "VMUsage": engine.VMUsage{}, "KernelUsage": engine.KernelUsage{},
		"UnfinishedUsage": engine.UnfinishedUsage{},
		"Amount":          imagepull.Amount{}, "LayerProgress": imagepull.LayerProgress{},
		"Stats": api.Stats{}, "VMStats": engine.Stats{}, "GuestStats": machine.Stats{},
	}
}

// requests are the schemas of what clients send, whose fields have defaults.
func requests() []string {
	return []string{"Pull", "Export", "ImportKernel", "VMChoices", "VMOptions", "RunOptions", "Stop", "Signal", "Publish", "Command", "PruneOptions"}
}

// TestTypesAreDescribed: each schema has the fields of its Go type, of the same kind, and requires those that are always sent.
func TestTypesAreDescribed(t *testing.T) {
	schemas := apitest.Load(t).Components.Schemas
	for name := range schemas {
		if types()[name] == nil {
			t.Errorf("the schema %s has no type", name)
		}
	}
	for name, value := range types() {
		if schemas[name] == nil {
			t.Errorf("the type %T has no schema %s", value, name)
			continue
		}
		described := fieldsOf(schemas[name].Value)
		sent := jsonFields(reflect.TypeOf(value))
		for field, f := range sent {
			d, found := described[field]
			if !found {
				t.Errorf("the schema %s lacks the field %s of %T", name, field, value)
				continue
			}
			if err := sameKind(d.schema, f.of); err != nil {
				t.Errorf("the schema %s, field %s: %v", name, field, err)
			}
			if !slices.Contains(requests(), name) && d.required == f.optional {
				t.Errorf("the schema %s: the field %s is required: %v; may be left out: %v", name, field, d.required, f.optional)
			}
		}
		for field := range described {
			if _, found := sent[field]; !found {
				t.Errorf("the schema %s has the field %s, and %T does not", name, field, value)
			}
		}
	}
}

// described is a field of a schema.
type described struct {
	schema   *openapi3.Schema
	required bool
}

// fieldsOf returns the fields of a schema, those of what it is made of included.
func fieldsOf(s *openapi3.Schema) map[string]described {
	fields := map[string]described{}
	for _, part := range s.AllOf {
		for name, field := range fieldsOf(part.Value) {
			fields[name] = field
		}
	}
	for name, property := range s.Properties {
		fields[name] = described{property.Value, slices.Contains(s.Required, name)}
	}
	for _, name := range s.Required {
		field := fields[name]
		field.required = true
		fields[name] = field
	}
	return fields
}

// field is a field of a type as encoding/json sees it.
type field struct {
	of       reflect.Type
	optional bool
}

func jsonFields(of reflect.Type) map[string]field {
	fields := map[string]field{}
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Anonymous && f.Tag.Get("json") == "" {
			for name, inner := range jsonFields(f.Type) {
				if _, shadowed := fields[name]; !shadowed {
					fields[name] = inner
				}
			}
		}
	}
	for i := range of.NumField() {
		f := of.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.IsExported() && name != "" && name != "-" {
			fields[name] = field{f.Type, strings.Contains(options, "omit")}
		}
	}
	return fields
}

// sameKind compares a schema with a type.
func sameKind(s *openapi3.Schema, of reflect.Type) error {
	if s.Type == nil { // an enumeration of strings, another schema, or anything
		return nil
	}
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want := "object"
	switch {
	case of.String() == "json.RawMessage":
		return nil
	case of.String() == "time.Time", of.String() == "netip.AddrPort", of.String() == "[]uint8", of.Kind() == reflect.String:
		want = "string"
	case of.Kind() == reflect.Slice || of.Kind() == reflect.Array:
		want = "array"
	case of.Kind() == reflect.Bool:
		want = "boolean"
	case of.Kind() == reflect.Float64:
		want = "number"
	case of.Kind() >= reflect.Int && of.Kind() <= reflect.Uint64:
		want = "integer"
	}
	if !s.Type.Includes(want) {
		return fmt.Errorf("it is described as %v, and %v is %s", *s.Type, of, want)
	}
	return nil
}

// TestKindsAreDescribed: the kinds of errors, and the status of each, are those of the description.
func TestKindsAreDescribed(t *testing.T) {
	kind := apitest.Load(t).Components.Schemas["Error"].Value.Properties["kind"].Value
	var described []string
	for _, name := range kind.Enum {
		described = append(described, fmt.Sprint(name))
	}
	if !slices.Equal(described, api.KindNames()) {
		t.Errorf("the kinds are %q, and described as %q", api.KindNames(), described)
	}
	for _, name := range api.KindNames() {
		status := api.StatusOf((&api.Error{Kind: name, Message: "x"}).Received())
		text := fmt.Sprintf(" %d", status)
		if status != http.StatusInternalServerError && (!strings.Contains(kind.Description, name) || !strings.Contains(kind.Description, text)) {
			t.Errorf("the description of kinds does not say that %s has the status%s", name, text)
		}
	}
}
