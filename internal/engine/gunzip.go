package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/system"
)

// goGunzip is the Config.Gunzip that leaves decompressing to this process.
const goGunzip = "go"

// gunzip chooses what decompresses layers in gzip: igzip (of Intel's ISA-L) or unpigz, whichever is there, in
// containerd's order (archive/compression/compression.go); nil leaves it to this process.
func (e *Engine) gunzip() (layer.Gunzip, error) {
	programs := []string{"igzip", "unpigz"}
	switch chosen := e.config.Gunzip; chosen {
	case "":
	case goGunzip:
		return nil, nil
	case "igzip", "unpigz":
		programs = []string{chosen}
	default:
		err := fmt.Errorf("choosing what decompresses gzip: BANGER_GUNZIP is %q", chosen)
		return nil, fault.New(fault.Usage, err, "set it to igzip, unpigz or go, or leave it out")
	}
	for _, name := range programs {
		if _, err := e.runner.Find(name); err == nil {
			return e.startGunzip(name), nil
		}
	}
	return nil, nil
}

// startGunzip starts a program with the arguments that igzip and unpigz have in common.
func (e *Engine) startGunzip(name string) layer.Gunzip {
	return func(ctx context.Context, stdin, stdout *os.File) (layer.Process, error) {
		var words bytes.Buffer
		p, err := e.runner.Start(ctx, system.Command{Name: name, Args: []string{"-d", "-c"}, Stdin: stdin}, stdout, &words)
		if err != nil {
			return nil, err
		}
		return &gunzipProcess{p, &words}, nil
	}
}

// gunzipProcess adds what a program says to its failure.
type gunzipProcess struct {
	*system.Process
	words *bytes.Buffer
}

// Wait waits for the program's end.
func (p *gunzipProcess) Wait() error {
	if err := p.Process.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(p.words.Bytes()))
	}
	return nil
}
