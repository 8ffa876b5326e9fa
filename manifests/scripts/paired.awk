# Compares two methods by the validation losses of runs with the same seeds.
#   awk -f paired.awk -v one=NAME -v two=NAME EVALUATION... (first those of one, then those of two, seeds in one order)
# Student's t of the paired differences; the interval is that of 95 %.
/"val_loss"/ { gsub(/[^0-9.eE+-]/, "", $2); loss[files++] = $2 }
END {
  pairs = files / 2
  if (pairs != int(pairs) || pairs < 2) { print "expected at least two losses of each" > "/dev/stderr"; exit 1 }
  split("12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228 2.201 2.179 2.160 2.145 2.131 2.120 2.110 2.101 2.093 2.086", quantile, " ")
  for (i = 0; i < pairs; i++) {
    first += loss[i]; second += loss[i + pairs]
    difference[i] = loss[i + pairs] - loss[i]; sum += difference[i]
  }
  mean = sum / pairs
  for (i = 0; i < pairs; i++) squares += (difference[i] - mean) ^ 2
  error = sqrt(squares / (pairs - 1) / pairs)
  width = error * (pairs - 1 <= 20 ? quantile[pairs - 1] : 1.96)
  printf "runs of each method    %d\n", pairs
  printf "%-22s %.4f mean validation loss\n", one, first / pairs
  printf "%-22s %.4f mean validation loss\n", two, second / pairs
  printf "%-22s %+.4f, 95 %% interval %+.4f to %+.4f\n", two " - " one, mean, mean - width, mean + width
  if (error > 0) printf "t                      %.2f with %d degrees of freedom\n", mean / error, pairs - 1
  # In parentheses: a bare `>` after print would name a file.
  print (mean - width > 0 || mean + width < 0 ? "different at the 5 % level" : "not different at the 5 % level")
}
