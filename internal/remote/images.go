package remote

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/oci"
)

// PullImage brings an image into the store and gives it a name.
func (c *Client) PullImage(ctx context.Context, reference string, options engine.PullOptions) (engine.Pulled, error) {
	whole, err := oci.Absolute(reference)
	if err != nil {
		return engine.Pulled{}, err
	}
	for _, path := range []*string{&options.CAFile, &options.CertDir} {
		if *path, err = absolute(*path); err != nil {
			return engine.Pulled{}, err
		}
	}
	if oci.ReadsStdin(whole) && options.Input != nil {
		return c.pullInput(ctx, whole, options)
	}
	var pulled engine.Pulled
	err = c.follow(ctx, post(api.Pull{Reference: whole, PullOptions: options}, "images"), &pulled)
	return pulled, err
}

// ListImages returns all images, the newest first, and an error for those that cannot be read.
func (c *Client) ListImages(ctx context.Context) ([]engine.NamedImage, error) {
	var answer api.Images
	if err := c.ask(ctx, get("images"), &answer); err != nil {
		return nil, err
	}
	return answer.Images, answer.Error.Received()
}

// InspectImage returns all that is known of the image that query means.
func (c *Client) InspectImage(ctx context.Context, query string) (details engine.ImageDetails, err error) {
	err = c.follow(ctx, get("images", query), &details)
	return details, err
}

// ExportImage writes the image's ext4 file to path.
func (c *Client) ExportImage(ctx context.Context, query, path string) (err error) {
	if path, err = absolute(path); err != nil {
		return err
	}
	return c.ask(ctx, post(api.Export{Path: path}, "images", query, "export"), nil)
}

// RemoveImage removes what query means.
func (c *Client) RemoveImage(ctx context.Context, query string) (removed string, err error) {
	var answer api.Removed
	err = c.ask(ctx, request{method: http.MethodDelete, path: []string{"images", query}}, &answer)
	return answer.Removed, err
}

// PruneImages removes what nobody needs. What could not be removed is in the error, beside what was.
func (c *Client) PruneImages(ctx context.Context, options engine.PruneOptions) (engine.PrunedImages, error) {
	var answer api.PrunedImages
	if err := c.ask(ctx, post(options, "images", "prune"), &answer); err != nil {
		return engine.PrunedImages{}, err
	}
	return answer.PrunedImages, answer.Error.Received()
}

// DiskUsage says what takes how much space, and has an error for what cannot be read.
func (c *Client) DiskUsage(ctx context.Context) (engine.DiskUsage, error) {
	var answer api.Usage
	if err := c.ask(ctx, get("usage"), &answer); err != nil {
		return engine.DiskUsage{}, err
	}
	return answer.DiskUsage, answer.Error.Received()
}

// ImportKernel brings a kernel into the store under a name.
func (c *Client) ImportKernel(ctx context.Context, name string, from engine.KernelSource) (*kernel.Kernel, error) {
	from.Debs = slices.Clone(from.Debs)
	paths := []*string{&from.Vmlinuz, &from.Modules}
	for i := range from.Debs {
		paths = append(paths, &from.Debs[i])
	}
	for _, path := range paths {
		whole, err := absolute(*path)
		if err != nil {
			return nil, err
		}
		*path = whole
	}
	var imported kernel.Kernel
	err := c.follow(ctx, post(api.ImportKernel{Name: name, KernelSource: from}, "kernels"), &imported)
	if err != nil {
		return nil, err
	}
	return &imported, nil
}

// absolute returns a path that means the same to the daemon; "" stays, and so does "-", which is no file.
func absolute(path string) (string, error) {
	if path == "" || path == "-" {
		return path, nil
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("making the path %q absolute: %w", path, err)
	}
	return whole, nil
}

// ListKernels returns all kernels by name, and an error for those that cannot be read.
func (c *Client) ListKernels(ctx context.Context) ([]*kernel.Kernel, error) {
	var answer api.Kernels
	if err := c.ask(ctx, get("kernels"), &answer); err != nil {
		return nil, err
	}
	return answer.Kernels, answer.Error.Received()
}

// InspectKernel returns the kernel of that name.
func (c *Client) InspectKernel(ctx context.Context, name string) (found *kernel.Kernel, err error) {
	err = c.ask(ctx, get("kernels", name), &found)
	return found, err
}

// RemoveKernel removes a kernel.
func (c *Client) RemoveKernel(ctx context.Context, name string) error {
	return c.ask(ctx, request{method: http.MethodDelete, path: []string{"kernels", name}}, nil)
}

// Doctor checks what the daemon needs of its host.
func (c *Client) Doctor(ctx context.Context) ([]engine.Check, error) {
	var answer api.Checks
	err := c.ask(ctx, get("doctor"), &answer)
	return answer.Checks, err
}

// Versions says which versions the daemon has.
func (c *Client) Versions(ctx context.Context) (versions api.Versions, err error) {
	err = c.ask(ctx, get("version"), &versions)
	return versions, err
}

func get(path ...string) request { return request{method: http.MethodGet, path: path} }

func post(body any, path ...string) request {
	return request{method: http.MethodPost, path: path, body: body}
}
