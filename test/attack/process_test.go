package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
)

// roleVariable makes this binary an attacker.
const roleVariable = "WEFT_ATTACK_ROLE"

// niceness keeps attackers from the processors that the attacked need: what is looked for is what they take of the mesh.
const niceness = 19

// report is what an attacker says when it is done.
type report struct {
	Done    int      `json:"done"`    // connections, requests or streams that were let in
	Refused int      `json:"refused"` // and those that were not
	Most    int      `json:"most"`    // at once
	Reached int      `json:"reached"` // connections whose handshake somebody answered, whatever came of it
	Errors  []string `json:"errors,omitempty"`
}

// join adds what another process says.
func (r *report) join(o report) {
	r.Done, r.Refused, r.Most, r.Reached = r.Done+o.Done, r.Refused+o.Refused, max(r.Most, o.Most), r.Reached+o.Reached
	r.Errors = append(r.Errors, o.Errors...)
}

// roles are what an attacker may do. They run in a process in the attacker's pod.
var roles = map[string]func(spec json.RawMessage) (report, error){
	"sweep":    role(sweep),
	"idle":     role(holdIdle),
	"headers":  role(sendHeaders),
	"sessions": role(openSessions),
	"streams":  role(openStreams),
	"bodies":   role(sendBodies),
	"get":      role(getAll),
	"flood":    role(floodConnections),
	"resets":   role(resetStreams),
}

func role[T any](f func(T) (report, error)) func(json.RawMessage) (report, error) {
	return func(spec json.RawMessage) (report, error) {
		var s T
		if err := json.Unmarshal(spec, &s); err != nil {
			return report{}, err
		}
		return f(s)
	}
}

// act is main of an attacker.
func act(name string, args []string) int {
	f := roles[name]
	if f == nil || len(args) != 1 {
		fmt.Fprintf(os.Stderr, "no role %q, or %d arguments\n", name, len(args))
		return 2
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, niceness)
	r, err := f(json.RawMessage(args[0]))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	return 0
}

// attacker is a process in a pod.
type attacker struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err bytes.Buffer
}

// from starts an attacker in a pod.
func from(t *testing.T, p *lab.Pod, role string, spec any) *attacker {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{t: t, cmd: exec.Command("/proc/self/exe", string(text))}
	a.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	a.cmd.Stdout, a.cmd.Stderr = &a.out, &a.err
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(a.cmd); err != nil {
		t.Fatal(err)
	}
	return a
}

// wait returns what an attacker did.
func (a *attacker) wait() (r report) {
	a.t.Helper()
	if err := a.cmd.Wait(); err != nil {
		a.t.Fatalf("attacker: %v: %s", err, a.err.String())
	}
	if err := json.Unmarshal(a.out.Bytes(), &r); err != nil {
		a.t.Fatalf("attacker: %v: %s", err, a.out.String())
	}
	return r
}
