package gatewaysecrets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

type secrets = map[string]string

// TestAgentHasWhatIsUsed follows an agent through changes, over several streams.
func TestAgentHasWhatIsUsed(t *testing.T) {
	times := quick
	times.Life = 20 * time.Millisecond
	c := newController(t, times)
	file := filepath.Join(t.TempDir(), "kept")
	c.set(nil, secrets{"shop/a": "1", "shop/b": "1"})
	a := newAgent(t, file, c.open("n1")).run()
	for _, want := range []secrets{
		{"shop/a": "1", "shop/b": "1"},
		{"shop/a": "2", "shop/b": "1"},
		{"shop/a": "2", "edge/c": "1"},
		{},
		{"edge/c": "3"},
	} {
		c.set(nil, want)
		until(t, fmt.Sprint("the agent has ", want), func() bool { return maps.Equal(a.holds(), want) })
		if !a.serves() {
			t.Error("the agent takes itself for one that serves no Gateways")
		}
	}
}

// TestNodeThatServesNoGateways receives nothing, and forgets what it had, on the disk too.
func TestNodeThatServesNoGateways(t *testing.T) {
	c := newController(t, quick)
	file := filepath.Join(t.TempDir(), "kept")
	c.set(map[string]bool{"n1": true}, secrets{"shop/a": "the-chain"})
	edge := newAgent(t, file, c.open("n1")).run()
	inner := newAgent(t, "", c.open("n2")).run()
	until(t, "n1 has the Secret, and n2 knows that it serves none", func() bool { return len(edge.holds()) == 1 && !inner.serves() })
	if got := inner.holds(); len(got) > 0 {
		t.Errorf("n2 serves no Gateways and has %v", got)
	}
	until(t, "the Secret is kept", func() bool { return strings.Contains(read(t, file), "shop") })

	c.set(map[string]bool{"n2": true}, secrets{"shop/a": "the-chain"})
	until(t, "n1 has none, and n2 has it", func() bool {
		return len(edge.holds()) == 0 && !edge.serves() && len(inner.holds()) == 1 && inner.serves()
	})
	until(t, "nothing of it is kept", func() bool { return read(t, file) == `{"refused":true}` })

	c.set(nil, secrets{"shop/a": "the-chain"})
	until(t, "n1 has it again", func() bool { return len(edge.holds()) == 1 && edge.serves() })
}

// read returns "" for a file that is not there yet: it is written after the tables.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// TestAgentThatDoesNotRead keeps nobody else from what is new, and its stream ends.
func TestAgentThatDoesNotRead(t *testing.T) {
	c := newController(t, quick)
	many := secrets{}
	for i := range 200 {
		many[fmt.Sprintf("shop/s%d", i)] = strings.Repeat("x", 60<<10)
	}
	c.set(nil, many)
	body, err := c.open("slow")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	good := newAgent(t, "", c.open("n1")).run()
	until(t, "the other has all", func() bool { return len(good.holds()) == len(many) })
	until(t, "the slow one's stream has ended", func() bool {
		return c.streamsOf("slow") == 0
	})
	c.set(nil, secrets{"shop/s0": "new"})
	until(t, "the other has the change", func() bool { return maps.Equal(good.holds(), secrets{"shop/s0": "new"}) })
}

// TestStreamsOfANode are bounded: the oldest ends.
func TestStreamsOfANode(t *testing.T) {
	c := newController(t, quick)
	c.set(nil, secrets{"shop/a": "1"})
	first, err := c.open("n1")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for range streamsOfNode {
		more, err := c.open("n1")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer more.Close()
	}
	other, err := c.open("n2")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Logf("the first ended: %v", err)
	}
	if n := c.streamsOf("n1"); n != streamsOfNode {
		t.Errorf("n1 has %d streams", n)
	}
}

// TestNextAgent starts from what the last one had, while no controller answers.
func TestNextAgent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kept")
	c := newController(t, quick)
	c.set(nil, secrets{"shop/a": "1"})
	first := newAgent(t, file, c.open("n1")).run()
	until(t, "the Secret is kept", func() bool { _, err := os.Stat(file); return err == nil && len(first.holds()) == 1 })
	first.stop()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	away := func(context.Context) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }
	next := newAgent(t, file, away).run()
	if !maps.Equal(next.holds(), secrets{"shop/a": "1"}) {
		t.Errorf("the next agent starts with %v", next.holds())
	}
	select {
	case <-next.Known():
	default:
		t.Error("the next agent takes what was kept for nothing")
	}
	problem := func() int { return len(next.objs.ProblemsOf(next.st.Snapshot(), model.ObjectRef{Kind: "Secret"})) }
	until(t, "it says that no controller answers", func() bool { return problem() == 1 })
	if len(next.holds()) != 1 {
		t.Error("an agent without a controller forgets")
	}
	next.stop()

	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	third := newAgent(t, file, c.open("n1"))
	if len(third.holds()) != 0 {
		t.Error("a file that others can read is taken")
	}
	third.run()
	until(t, "the controller's are taken, and kept for nobody else", func() bool {
		info, err := os.Stat(file)
		return len(third.holds()) == 1 && err == nil && info.Mode().Perm() == 0o600
	})
}

// TestWhatAnAgentTakes: nothing of a batch that is not complete, and nothing past the bounds.
func TestWhatAnAgentTakes(t *testing.T) {
	const put = `{"put":{"namespace":"shop","name":"a","chain":"MQ==","key":"MQ=="}}`
	for name, c := range map[string]struct {
		lines string
		want  secrets
	}{
		"a batch":                {put + "\n{}\n" + `{"complete":true}`, secrets{"shop/a": "1"}},
		"not complete":           {put, secrets{}},
		"not complete after one": {`{"complete":true}` + "\n" + put, secrets{}},
		"deleted":                {put + "\n" + `{"delete":"shop/a"}` + "\n" + `{"complete":true}`, secrets{}},
		"refused":                {put + "\n" + `{"complete":true}` + "\n" + `{"refused":true}`, secrets{}},
		"too long a Secret":      {`{"put":{"namespace":"shop","name":"a","chain":"` + strings.Repeat("MQ", maxSecret) + `"}}` + "\n" + `{"complete":true}`, secrets{}},
		"too long a line":        {strings.Repeat("x", 2*maxLine) + "\n" + `{"complete":true}`, secrets{}},
		"not JSON":               {put + "\nx\n" + `{"complete":true}`, secrets{}},
		"no name":                {`{"put":{"namespace":"shop"}}` + "\n" + put + "\n" + `{"complete":true}`, secrets{"shop/a": "1"}},
		"too long a bundle":      {put + "\n" + `{"putBundle":{"namespace":"shop","name":"a","pem":"` + strings.Repeat("M", maxBundle+1) + `"}}` + "\n" + `{"complete":true}`, secrets{}},
		"newer fields":           {`{"more":{"x":1}}` + "\n" + put + "\n" + `{"complete":true,"y":2}`, secrets{"shop/a": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, "", func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(c.lines)), nil })
			if _, err := a.follow(t.Context()); err == nil {
				t.Error("the end of a stream is no error")
			}
			if got := a.holds(); !maps.Equal(got, c.want) {
				t.Errorf("the agent holds %v, want %v", got, c.want)
			}
		})
	}
	h := newHeld()
	for i := range maxSecrets + 1 {
		if _, err := h.add(&message{Put: &certificate{Namespace: "shop", Name: fmt.Sprint("s", i)}}); (err != nil) != (i == maxSecrets) {
			t.Fatalf("Secret %d: %v", i, err)
		}
	}
}
