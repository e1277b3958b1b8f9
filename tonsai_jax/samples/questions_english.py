"""Questions about the English sample stories: data only, read by `questions`.

Each paragraph is a question. Its first line begins with the number of the step that tells the answer; a line that begins with "|"
asks the same in other words; the line that begins with "=" is the answer. The slots are those of the plot. A question is only
asked where the words of all of them were told.
"""

# About the introduction, which every story has.
INTRODUCTION = """
0 Who is the story about?
| Who is this story about?
| Who is it about?
= The story is about {hero}.

0 Where did {hero} live?
| Where does {hero} live?
| Where is the home of {hero}?
= {he} lived {home}.

0 What was {hero} like?
= {he} was a {nature} {child}.
"""

QUESTIONS = {
    "lost thing": """
        2 What did {hero} lose?
        | What was gone?
        | What could {hero} not find?
        = It was a {color} {thing}.

        1 What color was the {thing}?
        | What was the color of the {thing}?
        = It was {color}.

        3 Where did {hero} look?
        | Where did {hero} look for the {thing}?
        = {he} looked {looked}.

        7 Who helped {hero}?
        | Who looked for the {thing} with {hero}?
        = It was {his} {helper}.
        """,
    "new friend": """
        1 Who was new at school?
        | Who came to school?
        | What is the name of the new {friend_child}?
        = It was {friend}.

        2 Where was {friend}?
        | Where did {hero} see {friend}?
        = {friend_he} was {spot}.

        7 What did they do together?
        | What did {hero} and {friend} do?
        = They had fun {playing}.
        """,
    "animal in the rain": """
        3 What did {hero} find?
        | What did {hero} see?
        | Which animal did {hero} find?
        = It was a little {coat} {animal}.

        3 Where was the {animal}?
        | Where did {hero} find the {animal}?
        = It was {spot}.

        6 Who helped {hero}?
        | Who dried the {animal}?
        = It was {his} {helper}.
        """,
    "market": """
        1 Who went to the market with {hero}?
        | Who was with {hero}?
        = It was {his} {helper}.

        2 What did they want to buy?
        | What did they need?
        = They wanted to buy {first} and {second}.

        4 What did {hero} look at?
        | What did {hero} stop to look at?
        = {he} looked at {sight}.

        6 Who saw {hero}?
        | Who asked {hero} a question?
        = It was a {seller}.
        """,
    "river": """
        1 Who was with {hero}?
        | Who went to the {water} with {hero}?
        = It was {friend}.

        1 Where did they go?
        | Where were {hero} and {friend}?
        = They went to the {water}.

        2 What was in the water?
        | What did they see in the water?
        | Which animal was in the water?
        = It was a {animal}.

        7 What did they use to help the {animal}?
        | How did they help the {animal}?
        = They used {tool}.
        """,
    "sharing fruit": """
        1 How many {fruits} did {hero} have?
        | How many {fruits} were there?
        = There were {number} {fruits}.

        1 What did {hero} have?
        | Which fruit did {hero} have?
        = There were {number} {fruits}.

        3 Who did {hero} meet?
        | Who did {hero} see?
        = It was {friend}.

        3 Where did {hero} meet {friend}?
        | Where was {friend}?
        = {friend_he} was {place}.

        4 Who was hungry?
        = It was {friend}.
        """,
    "helping": """
        1 Who did {hero} visit?
        | Where did {hero} go?
        = {he} visited {his} {helper}.

        2 What hurt?
        | What was wrong with the {helper}?
        = It was {helper_his} {pain}.

        5 What did {hero} do?
        | How did {hero} help?
        = {he} {worked}.

        7 What did the {helper} give {hero}?
        | What did {hero} get?
        = It was {snack}.
        """,
    "tree": """
        2 What did {hero} plant?
        | Which seed did {hero} plant?
        = It was a {fruit} seed.

        2 Where did {hero} plant the seed?
        | Where was the seed?
        = It was {garden}.

        4 How many days did {hero} wait?
        | How long did {hero} wait?
        = {he} waited {number} days.
        """,
    "school": """
        1 What did the children learn?
        | What did they learn at school?
        = They learned to {task}.

        5 Who helped {hero}?
        | Who sat next to {hero}?
        = It was {friend}.

        6 Where did they practice?
        | Where did {hero} and {friend} practice?
        = It was {spot}.
        """,
    "moon": """
        2 What did the moon look like?
        | What was the moon like?
        = It looked like {like}.

        4 What did {hero} climb?
        | Where did {hero} climb?
        = {he} climbed up {high}.

        6 Who saw {hero}?
        | Who asked {hero} a question?
        = It was {his} {helper}.
        """,
    "kite": """
        1 Who made the kite with {hero}?
        | Who was with {hero}?
        = It was {friend}.

        1 What did the kite look like?
        = It looked like a {color} {shape}.

        1 What color was the kite?
        | What was the color of the kite?
        = It was {color}.

        3 Where was the kite?
        | Where did they lose the kite?
        = It was in a {tree}.

        6 Who came along?
        | Who wanted to help them?
        = It was a {adult}.
        """,
    "baby bird": """
        1 Where did {hero} walk?
        | Where did {hero} go?
        = {he} walked {place}.

        2 What did {hero} find?
        | What did {hero} see?
        | Which animal did {hero} find?
        = It was a baby {bird}.

        6 Who helped {hero}?
        | Who came with a ladder?
        = It was {his} {helper}.
        """,
    "noise at night": """
        1 Where was the noise?
        | Where did the noise come from?
        = It was {where}.

        2 What did {hero} think it was?
        | What was {hero} afraid of?
        = {he} thought it was {feared}.

        4 Who did {hero} call?
        | Who did {hero} wake up?
        = It was {his} {helper}.

        6 What did they take with them?
        | What did they have in their hands?
        = They took {light}.

        7 What was it?
        | What did they see?
        | Which animal was it?
        = It was a {animal}.
        """,
}

REPETITION = "Say: {words}"
