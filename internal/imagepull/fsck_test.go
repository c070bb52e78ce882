package imagepull

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/system"
)

// quiet is what e2fsck prints of a file system in which there is nothing to mend or to improve.
var quiet = regexp.MustCompile(`^Pass \d[A-Z]?: |: \d+/\d+ files \([^)]*\), \d+/\d+ blocks$|^e2fsck 1\.|^$`)

// checkers are the e2fsck that judge: the host's, and those that BANGER_TEST_E2FSCK names.
func checkers() []string {
	return append([]string{"e2fsck"}, filepath.SplitList(os.Getenv("BANGER_TEST_E2FSCK"))...)
}

func TestNewestE2fsck(t *testing.T) {
	if len(checkers()) > 1 {
		return
	}
	const why = "there is no second e2fsck: BANGER_TEST_E2FSCK is not set; run the tests by `make test`"
	if excused("e2fsck-newest") {
		t.Skip(why + "; excused by BANGER_TEST_EXCUSE")
	}
	t.Fatal(why + " (or set BANGER_TEST_EXCUSE=e2fsck-newest)")
}

// fsck returns what any of the checkers finds wrong with an image, or could be better.
func fsck(t *testing.T, image string) error {
	t.Helper()
	for _, checker := range checkers() {
		if err := fsckBy(t, checker, image); err != nil {
			return err
		}
	}
	return nil
}

// fsckBy returns what one e2fsck finds wrong. It gets the image by another name, because it takes what follows a "?" for
// options.
func fsckBy(t *testing.T, checker, image string) error {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	runner := testRunner()
	if filepath.IsAbs(checker) {
		runner = system.NewCommandRunner(filepath.Dir(checker))
	}
	out, err := runner.Run(context.Background(), system.Command{Name: filepath.Base(checker), Args: []string{"-fn", link}})
	if err != nil {
		return fmt.Errorf("%s: %w", checker, err)
	}
	for _, line := range strings.Split(out.Output(), "\n") {
		if !quiet.MatchString(line) {
			return fmt.Errorf("%s: %s", checker, out.Output())
		}
	}
	return nil
}

// mustBeClean fails the test if e2fsck finds anything wrong.
func mustBeClean(t *testing.T, image string) {
	t.Helper()
	if err := fsck(t, image); err != nil {
		t.Fatalf("the image is not clean: %v", err)
	}
}
