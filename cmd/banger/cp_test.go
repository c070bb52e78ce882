package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/files"
)

// TestParseLocation: a VM is told from a path of the host as docker does it.
func TestParseLocation(t *testing.T) {
	for arg, want := range map[string]engine.Location{
		"dev:/etc":    {VM: "dev", Path: "/etc"},
		"dev:etc":     {VM: "dev", Path: "etc"},
		"dev:a:b":     {VM: "dev", Path: "a:b"},
		"dev:.":       {VM: "dev", Path: "."},
		"file":        {Path: "file"},
		"/a:b":        {Path: "/a:b"},
		"./a:b":       {Path: "./a:b"},
		"../a:b":      {Path: "../a:b"},
		".hidden:b":   {Path: ".hidden:b"},
		"-":           {Path: "-"},
		"dir/a":       {Path: "dir/a"},
		":/etc":       {},
		"dev:":        {},
		"":            {},
		"dev:\xff\na": {VM: "dev", Path: "\xff\na"},
	} {
		got, err := parseLocation(arg)
		if got != want {
			t.Errorf("%q is %+v, want %+v", arg, got, want)
		}
		if want == (engine.Location{}) && fault.KindOf(err) != fault.Usage {
			t.Errorf("%q gave the error %v, want one of usage", arg, err)
		}
	}
}

// TestCopies: what the command line asks for, and what it cannot ask for.
func TestCopies(t *testing.T) {
	sys := system{stdin: os.Stdin, stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	a := &app{system: sys, progress: newProgress(sys)}
	for _, c := range []struct {
		args string
		want string // in the error; "" is none
		then func(engine.Copy) bool
	}{
		{args: "a b", want: "neither"},
		{args: "- -", want: "neither"},
		{args: "a - dev:/", want: "a tar cannot"},
		{args: "dev:/a dev:/b -", want: "a tar cannot"},
		{args: "a dev:", want: "VM:PATH"},
		{args: "a dev:/", then: func(c engine.Copy) bool { return c.To.VM == "dev" && !c.Into }},
		{args: "a b dev:/", then: func(c engine.Copy) bool { return c.Into }},
		{args: "dev:/ prod:/", then: func(c engine.Copy) bool { return c.From.VM == "dev" && c.To.VM == "prod" }},
		{args: "- dev:/", then: func(c engine.Copy) bool { return c.Input != nil && c.Output == nil }},
		{args: "dev:/ -", then: func(c engine.Copy) bool { return c.Input == nil && c.Output != nil }},
	} {
		copies, err := a.copies(strings.Fields(c.args), files.Options{})
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Usage {
				t.Errorf("%s: got the error %v, want one of usage with %q", c.args, err, c.want)
			}
		case err != nil || len(copies) == 0 || !c.then(copies[0]):
			t.Errorf("%s: got %+v, %v", c.args, copies, err)
		}
	}
}
