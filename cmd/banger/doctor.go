package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
)

func newDoctor(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check what banger needs of this host", Args: exactly(),
		Long: `Check what banger needs of this host, and say what to do about what is missing.

The exit code is 1 if anything that banger cannot work without is missing.`,
		Example: "  banger doctor\n  banger doctor --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) doctor(ctx context.Context, asJSON bool) error {
	var checks []engine.Check
	e, err := a.engine()
	if err == nil {
		checks, err = e.Doctor(ctx)
	}
	if err != nil && (a.daemonHost() != "" || ctx.Err() != nil) {
		return err
	}
	if err != nil { // there is nowhere to look for the rest
		checks = []engine.Check{{Name: "home", State: engine.Fail, Detail: err.Error(), Hint: fault.HintOf(err)}}
	}
	if asJSON {
		err = a.printJSON(struct {
			Schema int            `json:"schema"`
			Checks []engine.Check `json:"checks"`
		}{1, checks})
	} else {
		err = a.printChecks(checks)
	}
	if err != nil {
		return err
	}
	return verdict(checks)
}

func (a *app) printChecks(checks []engine.Check) error {
	for _, check := range checks {
		if _, err := fmt.Fprintf(a.stdout, "%-4s  %-18s  %s\n", check.State, check.Name, check.Detail); err != nil {
			return err
		}
		if check.Hint != "" {
			_, _ = fmt.Fprintf(a.stdout, "      %-18s  → %s\n", "", check.Hint)
		}
	}
	return nil
}

func verdict(checks []engine.Check) error {
	var bad []string
	for _, check := range checks {
		if check.State == engine.Fail {
			bad = append(bad, check.Name)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return errors.New("checking this host: not ready: " + strings.Join(bad, ", "))
}
