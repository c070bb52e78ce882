package engine

import (
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// suggest makes a hint of the names that are nearly the one which was not found, or returns otherwise.
func suggest(wanted string, names []string, otherwise string) string {
	var near []string
	for _, name := range names {
		if isNear(wanted, name) && !slices.Contains(near, name) {
			near = append(near, name)
		}
	}
	return didYouMean(near, otherwise)
}

// didYouMean makes a hint of names, or returns otherwise if there are none.
func didYouMean(near []string, otherwise string) string {
	if len(near) == 0 {
		return otherwise
	}
	return "did you mean " + strings.Join(near[:min(3, len(near))], ", ") + "?"
}

// isNear reports whether one name may be a mistyped other, or the beginning of it.
func isNear(wanted, name string) bool {
	if wanted == "" {
		return false
	}
	return strings.HasPrefix(name, wanted) || levenshtein.ComputeDistance(wanted, name) <= 1+min(len(wanted), len(name))/5
}
