package daemon

import (
	"context"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
)

// route is a pattern of http.ServeMux and what answers a call of it.
type route struct {
	pattern string
	handle  func(*call) error
}

// routes are all that the daemon serves.
func (s *Server) routes() []route {
	return []route{
		{"GET /v1/version", getVersion},
		{"GET /v1/openapi.yaml", getOpenAPI},
		{"GET /v1/doctor", getDoctor},

		{"GET /v1/images", listImages},
		{"POST /v1/images", pullImage},
		{"GET /v1/images/{image}", inspectImage},
		{"DELETE /v1/images/{image}", removeImage},
		{"POST /v1/images/{image}/export", exportImage},
		{"GET /v1/images/{image}/files", listFiles},
		{"GET /v1/images/{image}/content", catFile},
		{"GET /v1/images/{image}/diff", diffImages},
		{"GET /v1/save", saveImages},
		{"POST /v1/images/prune", pruneImages},
		{"GET /v1/usage", diskUsage},

		{"GET /v1/kernels", listKernels},
		{"POST /v1/kernels", importKernel},
		{"GET /v1/kernels/{kernel}", inspectKernel},
		{"DELETE /v1/kernels/{kernel}", removeKernel},

		{"GET /v1/vms", listVMs},
		{"POST /v1/vms", createVM},
		{"GET /v1/vms/{vm}", inspectVM},
		{"DELETE /v1/vms/{vm}", removeVM},
		{"POST /v1/vms/{vm}/start", startVM},
		{"POST /v1/vms/{vm}/stop", stopVM},
		{"POST /v1/vms/{vm}/restart", restartVM},
		{"POST /v1/vms/{vm}/kill", killVM},
		{"POST /v1/vms/{vm}/signal", signalVM},
		{"POST /v1/vms/{vm}/wait", waitVM},
		{"POST /v1/vms/{vm}/ports", addPorts},
		{"DELETE /v1/vms/{vm}/ports", removePorts},
		{"GET /v1/vms/{vm}/logs", logsOfVM},
		{"POST /v1/vms/{vm}/exec", execInVM},
		{"POST /v1/vms/{vm}/stream", streamToVM},
		{"GET /v1/stats", statsOfVMs},
		{"GET /v1/ports", listPorts},
		{"POST /v1/prune", pruneVMs},
		{"POST /v1/run", runVM},
	}
}

func getVersion(c *call) error { return c.answer(c.server.config.Versions) }

func getOpenAPI(c *call) error {
	c.begun = true
	c.w.Header().Set("Content-Type", "application/yaml")
	_, err := c.w.Write(c.server.config.OpenAPI)
	return err
}

func getDoctor(c *call) error {
	checks, err := c.engine.Doctor(c.ctx())
	if err != nil {
		return err
	}
	return c.answer(api.Checks{Checks: checks})
}

// target is what the path names.
func (c *call) target() string {
	for _, name := range []string{"vm", "image", "kernel"} {
		if value := c.r.PathValue(name); value != "" {
			return value
		}
	}
	return ""
}

func listImages(c *call) error {
	images, broken := c.engine.ListImages(c.ctx())
	if images == nil && broken != nil {
		return broken
	}
	return c.answer(api.Images{Images: images, Error: api.ErrorOf(broken)})
}

func pullImage(c *call) error {
	var asked api.Pull
	if err := c.decode(&asked); err != nil {
		return err
	}
	if c.asksFor(api.UpgradePull) {
		return c.pullInput(asked)
	}
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) {
		return e.PullImage(ctx, asked.Reference, asked.PullOptions)
	})
}

func inspectImage(c *call) error {
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) { return e.InspectImage(ctx, c.target()) })
}

func removeImage(c *call) error {
	removed, err := c.engine.RemoveImage(c.ctx(), c.target())
	if err != nil {
		return err
	}
	return c.answer(api.Removed{Removed: removed})
}

func exportImage(c *call) error {
	var asked api.Export
	if err := c.decode(&asked); err != nil {
		return err
	}
	return c.done(c.engine.ExportImage(c.ctx(), c.target(), asked.Path))
}

func pruneImages(c *call) error {
	var asked engine.PruneOptions
	if err := c.decodeOptional(&asked); err != nil {
		return err
	}
	pruned, err := c.engine.PruneImages(c.ctx(), asked)
	return c.answer(api.PrunedImages{PrunedImages: pruned, Error: api.ErrorOf(err)})
}

func diskUsage(c *call) error {
	usage, broken := c.engine.DiskUsage(c.ctx())
	return c.answer(api.Usage{DiskUsage: usage, Error: api.ErrorOf(broken)})
}

func listKernels(c *call) error {
	kernels, broken := c.engine.ListKernels(c.ctx())
	if kernels == nil && broken != nil {
		return broken
	}
	return c.answer(api.Kernels{Kernels: orEmpty(kernels), Error: api.ErrorOf(broken)})
}

// orEmpty makes nil an empty list, which JSON tells from null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func importKernel(c *call) error {
	var asked api.ImportKernel
	if err := c.decode(&asked); err != nil {
		return err
	}
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) {
		return e.ImportKernel(ctx, asked.Name, asked.KernelSource)
	})
}

func inspectKernel(c *call) error {
	found, err := c.engine.InspectKernel(c.ctx(), c.target())
	if err != nil {
		return err
	}
	return c.answer(found)
}

func removeKernel(c *call) error {
	if err := c.engine.RemoveKernel(c.ctx(), c.target()); err != nil {
		return err
	}
	return c.answer(api.Removed{Removed: c.target()})
}
