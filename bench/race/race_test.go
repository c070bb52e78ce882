package race

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// scripted returns a runner that takes these times, one after the other.
func scripted(name string, order *[]string, times ...time.Duration) Runner {
	return Runner{Name: name, Run: func(context.Context) (time.Duration, error) {
		*order = append(*order, name)
		took := times[0]
		times = times[1:]
		return took, nil
	}}
}

func TestRace(t *testing.T) {
	var order []string
	const ms = time.Millisecond
	results, err := Race(t.Context(), 3, scripted("a", &order, 900*ms, 30*ms, 10*ms, 20*ms), scripted("b", &order, 900*ms, 5*ms, 5*ms, 50*ms))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, ""); got != "abababab" {
		t.Errorf("the runners ran in the order %s, want turns", got)
	}
	if a, b := results[0].Median(), results[1].Median(); a != 20*ms || b != 5*ms {
		t.Errorf("medians = %v and %v, want 20ms and 5ms, without the first round", a, b)
	}
	var out strings.Builder
	if err := Write(&out, results); err != nil {
		t.Fatal(err)
	}
	if want := "| b | 5.0 ms | 5.0 ms | 50.0 ms | 4.00 |"; !strings.Contains(out.String(), want) {
		t.Errorf("the table is\n%s\nwant the line %s", out.String(), want)
	}
}

func TestRaceFails(t *testing.T) {
	broken := errors.New("broken")
	_, err := Race(t.Context(), 1, Runner{Name: "a", Run: func(context.Context) (time.Duration, error) { return 0, broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "running a") {
		t.Errorf("Race = %v, want the runner's name and its error", err)
	}
}
