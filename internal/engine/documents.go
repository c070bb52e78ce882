package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// documentsDir has the manifests and configurations of registries that are kept (package oci). Nothing needs them: they
// spare requests.
func (e *Engine) documentsDir() string { return e.home.Path("documents") }

// documents returns the files of documentsDir. What vanishes meanwhile is left out.
func (e *Engine) documents() (files []fs.FileInfo, err error) {
	entries, err := os.ReadDir(e.documentsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, info)
		}
	}
	return files, err
}

func (e *Engine) measureDocuments(m *meter) (UsageTotal, error) {
	total := UsageTotal{Kind: UsageDocuments}
	files, err := e.documents()
	for _, file := range files {
		total.add(m.file(file), false)
	}
	return total, err
}

// documents removes the documents that are kept. Without --all they stay, for the images that stay.
func (p *prune) documents(ctx context.Context) error {
	if !p.options.All {
		return nil
	}
	m := &meter{seen: map[inode]bool{}}
	files, err := p.engine.documents()
	failed := []error{err}
	for _, file := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.spared(file.ModTime()) { // which is when it was read (package oci)
			continue
		}
		if err := p.document(file.Name()); err != nil {
			failed = append(failed, err)
			continue
		}
		item := PrunedItem{Name: file.Name(), Size: m.file(file)}
		p.result.Documents = append(p.result.Documents, item)
		p.result.Reclaimed += item.Size
	}
	return errors.Join(failed...)
}

// document removes a document, unless it is a dry run. One that is not there is none.
func (p *prune) document(name string) error {
	if p.options.DryRun {
		return nil
	}
	err := os.Remove(filepath.Join(p.engine.documentsDir(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
