package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

// printJSON prints a result for programs.
func (a *app) printJSON(value any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printLines prints each of a list on a line.
func (a *app) printLines(list []string) error {
	for _, line := range list {
		if _, err := fmt.Fprintln(a.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// each does something to each name and prints what it gives, if anything. One that fails does not stop the rest, and neither
// does output that cannot be written.
func (a *app) each(names []string, do func(string) (string, error)) error {
	var failed []error
	var unwritten error
	for _, name := range names {
		done, err := do(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if done != "" && unwritten == nil {
			_, unwritten = fmt.Fprintln(a.stdout, done)
		}
	}
	if unwritten != nil {
		failed = append(failed, unwritten)
	}
	return joined(failed)
}

// joined returns the errors as one, and one as it is.
func joined(failed []error) error {
	if len(failed) == 1 {
		return failed[0]
	}
	return errors.Join(failed...)
}

// atLeast demands the named arguments, the last of which may be there several times.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= len(names) && !slices.Contains(args, "") {
			return nil
		}
		return exactly(names...)(cmd, args)
	}
}

// andCommand demands an image or a VM. What follows is a command's, whose arguments may be empty.
func andCommand(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return atLeast(name)(cmd, args[:min(1, len(args))]) }
}
