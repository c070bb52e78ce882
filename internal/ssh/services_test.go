package ssh

import "github.com/banger-vm/banger/internal/guest/frame"

func addServices(frame.Router) {}
