package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/lock"
)

// hexOf is a digest's hex of one digit.
func hexOf(digit string) string { return strings.Repeat(digit, 64) }

// withFiles makes a store with files of 8 KiB, the first one the oldest.
func withFiles(t *testing.T, names ...string) *Store {
	t.Helper()
	store := NewStore(t.TempDir())
	dir := filepath.Join(store.dir, "sha256")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for n, name := range names {
		path := filepath.Join(dir, name)
		at := time.Unix(1_600_000_000+int64(n), 0)
		if err := errors.Join(os.WriteFile(path, make([]byte, 8192), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// take takes a lock for as long as the test runs.
func take(t *testing.T, path string) {
	t.Helper()
	held, err := lock.Try(path)
	if err != nil || held == nil {
		t.Fatalf("locking %s: %v", path, err)
	}
	t.Cleanup(held.Release)
}

func list(t *testing.T, store *Store) []Stored {
	t.Helper()
	all, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestStored: what there is, with its size on the disk, by the time of its last use.
func TestStored(t *testing.T) {
	a, b, c, d := hexOf("a"), hexOf("b"), hexOf("c"), hexOf("d")
	download := b + ".0123456789abcdef" + unfinished
	store := withFiles(t, a, a+index, b, c, d+partial, download, "stranger")
	take(t, store.lockPath(d))
	use, err := store.Use(t.Context(), []string{"sha256:" + a, "sha256:" + hexOf("e")}) // e is not there yet
	if err != nil {
		t.Fatal(err)
	}
	want := []Stored{
		{DiffID: "sha256:" + b, Size: 8192, file: b}, {DiffID: "sha256:" + c, Size: 8192, file: c},
		{DiffID: "sha256:" + d, Size: 8192, Partial: true, Busy: true, file: d + partial},
		{DiffID: "sha256:" + b, Size: 8192, Partial: true, file: download},
		{DiffID: "sha256:" + a, Size: 16384, Busy: true, file: a}, // with its index
	}
	check := func(when string) {
		t.Helper()
		got := list(t, store)
		if last := got[len(got)-1]; time.Since(last.LastUse) > time.Minute {
			t.Errorf("%s: the last use of the layer that is used was at %v", when, last.LastUse)
		}
		for i := range got {
			got[i].LastUse = time.Time{}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: listed\n%+v, want\n%+v", when, got, want)
		}
	}
	check("while it is used")
	use.Release()
	want[4].Busy = false
	check("after its use")
	if got := list(t, NewStore(t.TempDir())); len(got) > 0 {
		t.Errorf("a store that is not there has %v", got)
	}
}

// TestRemove: what somebody uses, writes or wants stays.
func TestRemove(t *testing.T) {
	unwanted, wanted, used, written := hexOf("a"), hexOf("b"), hexOf("c"), hexOf("d")
	store := withFiles(t, unwanted, unwanted+index, wanted, used, written, wanted+partial)
	take(t, store.lockPath(written))
	use, err := store.Use(t.Context(), []string{"sha256:" + used})
	if err != nil {
		t.Fatal(err)
	}
	defer use.Release()
	all := append(list(t, store), Stored{DiffID: "sha256:" + hexOf("e")}) // which another has removed
	removed, err := store.Remove(t.Context(), all, func() (func(string) bool, error) {
		if !lock.Held(store.usePath(wanted)) || !lock.Held(store.usePath(unwanted)) {
			t.Error("it is asked what is wanted while somebody can still begin to use the layers")
		}
		return func(id string) bool { return id == "sha256:"+wanted }, nil
	})
	if err != nil || len(removed) != 1 || removed[0].DiffID != "sha256:"+unwanted || removed[0].Size != 16384 {
		t.Errorf("removed %+v (%v), want the layer that nobody wants", removed, err)
	}
	if got, want := stored(t, store.dir), []string{wanted, wanted + partial, used, written}; !slices.Equal(got, want) {
		t.Errorf("the store has\n%q, want\n%q", got, want)
	}
	unknown := errors.New("cannot say")
	_, err = store.Remove(t.Context(), all, func() (func(string) bool, error) { return nil, unknown })
	if !errors.Is(err, unknown) || len(stored(t, store.dir)) != 4 {
		t.Errorf("where it is not known what is wanted: %v, and the store has %q", err, stored(t, store.dir))
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(unknown)
	if _, err := store.Remove(ended, all, nil); !errors.Is(err, unknown) {
		t.Errorf("a removal that was cancelled gives %v", err)
	}
}

// TestUseWaits: a use that begins during a removal waits for its end, and until its own context ends.
func TestUseWaits(t *testing.T) {
	store := withFiles(t, hexOf("a"))
	used := make(chan error, 1)
	removed, err := store.Remove(t.Context(), list(t, store), func() (func(string) bool, error) {
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		defer cancel()
		if _, err := store.Use(ctx, []string{"sha256:" + hexOf("a")}); !errors.Is(err, why) {
			t.Errorf("a use in the middle of the removal: %v, want it to wait", err)
		}
		go func() {
			_, err := store.Use(context.Background(), []string{"sha256:" + hexOf("a")})
			used <- err
		}()
		return func(string) bool { return false }, nil
	})
	if err != nil || len(removed) != 1 {
		t.Errorf("removed %v (%v)", removed, err)
	}
	if err := <-used; err != nil {
		t.Errorf("the use after the removal: %v", err)
	}
	if _, err := store.Use(t.Context(), []string{"sha256:../../x"}); err == nil {
		t.Error("a digest that leads out of the store is used")
	}
}

// TestRemovePartial: downloads that somebody goes on with, or is going to, stay, and so do layers.
func TestRemovePartial(t *testing.T) {
	dead, alive, used := hexOf("a"), hexOf("b"), hexOf("c")+".0123456789abcdef"+unfinished
	store := withFiles(t, dead, dead+partial, dead+index+partial, dead+".0123456789abcdef"+unfinished, alive+partial, used)
	take(t, store.lockPath(alive))
	partials := slices.DeleteFunc(list(t, store), func(s Stored) bool { return !s.Partial })
	use, err := store.Use(t.Context(), []string{"sha256:" + hexOf("c")})
	if err != nil {
		t.Fatal(err)
	}
	defer use.Release()
	if last := list(t, store)[5]; last.file != used || !last.Busy {
		t.Errorf("the download of a layer that is used is listed as %+v, want it busy", last)
	}
	removed, err := store.RemovePartial(t.Context(), partials)
	if err != nil || len(removed) != 3 || removed[0].DiffID != "sha256:"+dead {
		t.Errorf("removed %+v (%v), want what belongs to the download that nobody goes on with", removed, err)
	}
	if got, want := stored(t, store.dir), []string{dead, alive + partial, used}; !slices.Equal(got, want) {
		t.Errorf("the store has %q, want %q", got, want)
	}
}

// TestOtherAlgorithms: layers whose diff_ids are not of SHA-256 are listed and removed like others.
func TestOtherAlgorithms(t *testing.T) {
	store := withFiles(t, hexOf("a"))
	whole, begun := strings.Repeat("b", 128), strings.Repeat("c", 128)
	dir := filepath.Join(store.dir, "sha512")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{whole, begun + partial, hexOf("d")} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var layers, partials []Stored
	for _, s := range list(t, store) {
		if s.Partial {
			partials = append(partials, s)
		} else {
			layers = append(layers, s)
		}
	}
	if len(layers) != 2 || layers[1].DiffID != "sha512:"+whole || layers[1].Size != 8192 ||
		len(partials) != 1 || partials[0].DiffID != "sha512:"+begun {
		t.Fatalf("listed %+v and the partial %+v, want one of each algorithm, and one of sha512", layers, partials)
	}
	removed, err := store.Remove(t.Context(), layers, func() (func(string) bool, error) {
		return func(string) bool { return false }, nil
	})
	if err != nil || len(removed) != 2 {
		t.Errorf("removed %+v (%v), want both layers", removed, err)
	}
	if removed, err := store.RemovePartial(t.Context(), partials); err != nil || len(removed) != 1 {
		t.Errorf("removed %+v (%v), want the partial one", removed, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != hexOf("d") {
		t.Errorf("left are %v (%v), want what is no layer", left, err)
	}
}

func TestExcess(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	layers := []Stored{
		{DiffID: "new", Size: 10, LastUse: at(3)}, {DiffID: "old", Size: 20, LastUse: at(1)}, {DiffID: "middle", Size: 30, LastUse: at(2)},
	}
	for limit, want := range map[int64][]string{
		100: nil, 60: nil, 59: {"old"}, 40: {"old"}, 39: {"old", "middle"}, 10: {"old", "middle"}, 9: {"old", "middle", "new"}, 0: {"old", "middle", "new"},
	} {
		var got []string
		for _, l := range Excess(layers, limit) {
			got = append(got, l.DiffID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("beyond %d bytes are %q, want %q", limit, got, want)
		}
	}
}
