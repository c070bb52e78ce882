package main

import "github.com/spf13/cobra"

// newImageSettle is what a pull leaves behind for a moment: a process that waits for the host's disk.
func newImageSettle(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "settle HOME ID", Hidden: true, Args: exactly("a HOME", "an ID"),
		Short:   "Bring an image to the host's disk; banger starts this itself",
		Example: "  banger image pull debian:bookworm",
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.engineOn(args[0])
			if err != nil {
				return err
			}
			return e.SettleImage(args[1])
		},
	}
}
