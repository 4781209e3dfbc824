package main

import (
	"os"
	"strings"
	"testing"
)

func TestTheRuleAgreesWithEveryOtherImplementation(t *testing.T) {
	text, err := os.ReadFile("../duplicates.txt")
	if err != nil {
		t.Fatal(err)
	}
	duplicates, name, count := Duplicates{}, "", 0
	for _, line := range strings.Split(string(text), "\n") {
		if after, found := strings.CutPrefix(line, "## "); found {
			duplicates, name = Duplicates{}, after
		} else if verdict, header, found := strings.Cut(line, "\t"); found && !strings.HasPrefix(line, "#") {
			if duplicates.IsFirst(header) != (verdict == "first") {
				t.Errorf("%s: `%s` is not %s", name, header, verdict)
			}
			count++
		}
	}
	if count < 40 {
		t.Errorf("only %d verdicts", count)
	}
}
